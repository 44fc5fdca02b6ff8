"""The messages that users read instead of tracebacks; nothing is loaded for them before an error occurs."""

import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dof_lightning.config.catalog import groups, options
from dof_lightning.config.command_line import for_hydra, for_shell
from dof_lightning.config.identity import leaves
from dof_lightning.errors import UserError

USER_ERROR_EXIT_CODE = 2


def unknown_key(key: str, known: Sequence[str]) -> str:
    """One line for a key that does not exist, with the nearest one that does."""
    if re.match(r"env\.arguments\.", key):
        return (
            f"unknown key `{key}`; to give env.factory an argument that its yaml does not name, type `+{key}=<value>`"
        )
    close = _same_in_short(key, known) or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    close = close or _with_a_close_name(key, known)
    hint = f"did you mean {' or '.join(f'`{name}`' for name in close)}?" if close else _ALL_KEYS
    return f"unknown key `{key}`; {hint}"


_MOST_SUGGESTED = 4
_FLAGS = (  # Hydra's
    *("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion", "info"),
    *("config-path", "config-name", "config-dir", "experimental-rerun"),
)
_FEW = 24  # beside a suggestion, all choices are named if there are at most so many
_ALL_KEYS = "`python train.py --cfg job` shows all keys"
_SHORT = {  # names of our keys in other programs
    "lr": "learning_rate",
    "bs": "global_batch_size",
    "batch_size": "global_batch_size",
    "gamma": "discount",
    "tau": "target_update_rate",
    "gpus": "devices",
    "epochs": "max_steps",
    "steps": "max_steps",
    "max_epochs": "max_steps",
    "eta": "q_weight",
    "gradient_clip_val": "gradient_clip",
    "output_dir": "run_dir",
}


def _same_in_short(key: str, known: Sequence[str]) -> list[str]:
    """The keys that a short or foreign name stands for."""
    name = _SHORT.get(key.rpartition(".")[2])
    return [one for one in known if name is not None and one.rpartition(".")[2] == name][:_MOST_SUGGESTED]


def _with_a_close_name(key: str, known: Sequence[str]) -> list[str]:
    """The keys whose last part is nearest, as `max_stepz` is to `trainer.max_steps`."""
    last = {one.rpartition(".")[2] for one in known}
    close = difflib.get_close_matches(key.rpartition(".")[2], sorted(last), n=1, cutoff=0.6)
    return [one for one in known if one.rpartition(".")[2] in close][:_MOST_SUGGESTED]


def _likeness(name: str, choice: str) -> float:
    """Similarity of a name and a choice, or the choice's beginning: `mpe_spred` suggests every `mpe_spread_...`.

    Capitals make no difference: papers write TD3_BC.
    """
    name, choice = name.lower(), choice.lower()
    return max(difflib.SequenceMatcher(None, name, known).ratio() for known in (choice, choice[: len(name) + 1]))


def nearest(name: str, choices: Sequence[str]) -> str:
    """Text for a name that is none of some choices: the nearest of them, then all of them if they are few."""
    likeness = {choice: _likeness(name, choice) for choice in choices}
    least = max([0.6, *(value - 0.02 for value in likeness.values())])
    close = [choice for choice, value in likeness.items() if value >= least][:_MOST_SUGGESTED]
    listed = f"choose one of {', '.join(choices)}"
    if not close:
        return listed
    return f"did you mean {' or '.join(close)}?" + (f" Or {listed}" if len(choices) <= _FEW else "")


def as_typed(text: str, choices: Mapping[str, str | None]) -> str:
    """Rewrites a complaint about the class of a part, `noise_factorization: QMix ...`, with the option typed."""

    def named(found: re.Match[str]) -> str:
        option = choices.get(found[1])
        return found[0] if option is None else f"{found[1]}={option}"

    return re.sub(r"\b(\w+): [A-Z]\w*", named, text)


def explain(error: Exception, overrides: Sequence[str] = (), what: str = "configuration") -> str:
    """One line for an exception of Hydra or OmegaConf: the key, and the choices or the fix.

    Args:
        error: the exception.
        overrides: the typed overrides; their experiment and algorithm determine which keys exist.
        what: the key of the node that was built.
    """
    from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException

    if isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options is not None:
        file = str(error.missing_cfg_file)
        group, _, option = file.rpartition("/") if file.startswith("hydra/") else file.partition("/")
        return _missing_option(group, option, found=error.options)
    if line := _of_what_was_typed(text, overrides):
        return line
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        where = re.search(r"full_key: (\S+)", text)
        return f"{where[1] if where else what} cannot be built: {' '.join(str(error.__cause__).split())}"
    return re.sub(r" (See https|full_key:|object_type=).*", "", text)


def _of_what_was_typed(text: str, overrides: Sequence[str]) -> str | None:
    """One line for an override that Hydra can parse but not apply; None if no override is the cause."""
    if re.match(r"Could not override 'suite'", text):
        return "start a suite of runs with `dof bench suite=<name>`, not with train.py (docs/guide/benchmarking.md)"
    if re.match(r"Could not override 'study\.", text):
        return "this run has no study; set study=<name>, or use an experiment with one (docs/guide/studies.md)"
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return unknown_key(unknown[1], _known_keys(overrides))
    if appended := re.match(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"`{appended[1]}` exists already; drop the + before it"
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)' (?:1\.|requires)", text):
        return _several(several[1].replace("\\'", "'"))
    if listed := [typed for typed in overrides if re.match(rf"\+*({'|'.join(groups())})=\[", typed)]:
        return list_of_options(listed[0])
    if "Config group override must be" in text:
        named = [typed for typed in overrides if typed.partition("=")[0] in ("", *groups())]
        return f"cannot read {' or '.join(map(repr, named))}; an option of a group is a name: group=option"
    return None


def _missing_option(group: str, option: str, found: Sequence[str]) -> str:
    """One line for an option that does not exist, with the nearest that does; `found` are those in all folders."""
    if group in ("hydra/launcher", "hydra/sweeper"):
        return f"{group}={option} is not installed; pip install 'dof-lightning[sweep]' has joblib, submitit, optuna"
    choices = sorted({*options(group), *(name for name in found if not name.startswith("_"))})
    own = ", or a dataset of your own; `dof data list` shows those" if group == "data" else ""
    return f"{group}={option} does not exist; {nearest(option, choices)}{own}"


def list_of_options(override: str) -> str:
    """One line for `group=[option,option]`."""
    return f"{override} is a list: an option of a group is one name; for several runs use -m and names with commas"


def _several(override: str) -> str:
    """One line for several values of a key in a single run."""
    key, _, value = override.partition("=")
    each = f"{override} names several values: add -m to run each of them"
    if key.lstrip("+") in groups() or re.match(r"\w+\(", value):
        return each
    return f"{each}; write a list as {for_shell(f'{key}=[{value}]')}, text as {for_shell(for_hydra(key, value))}"


def _unreadable(override: str) -> str:
    """One line for an override that Hydra's grammar does not allow."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        return f"cannot read {override!r}; write key=value"
    if not re.fullmatch(r"[+~]*[\w./@:-]+", key, re.ASCII) or ".." in key or key.endswith("."):
        return f"cannot read {override!r}: {key!r} is not a key; `python train.py --cfg job` shows all"
    as_text = for_shell(for_hydra(key, value))
    return f"cannot read {override!r}; write key=value, lists as key=[1,2], and text with other characters as {as_text}"


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """The keys of the experiment and algorithm that are named, as far as they exist."""
    from omegaconf import OmegaConf

    from dof_lightning.config import compose as configuration

    default = f"experiment={options('experiment')[0]}"
    typed = {text.partition("=")[0]: text for text in (default, *overrides)}
    named = [text for key, text in typed.items() if key in ("experiment", "algorithm", "env", "trust")]
    try:
        cfg = configuration.compose(named)
    except UserError:
        cfg = configuration.compose([default])
    plain = OmegaConf.to_container(cfg, resolve=False)
    known = [name for name, _ in leaves(plain)] + groups()
    return [name for name in known if not name.rpartition(".")[2].startswith("_")]


def exit_with_one_line(main: Callable[[], Any], typed: Sequence[str] = (), said: set[str] | None = None) -> int:
    """Runs a command; mistakes of the user become one line on stderr and exit code 2, defects keep their traceback.

    Args:
        main: the command.
        typed: its overrides, for `explain`.
        said: lines printed already, by other jobs of a sweep: they are not repeated, and a new one is added.

    Returns:
        the exit code.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        _refuse_dashes(typed)
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; anything saved is kept, and the same command resumes from it\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader, such as `head`, has ended; Python would complain again on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        line = _line_of(error, typed)
        if line is None:
            raise
    else:
        return 0
    line = " ".join(line.split())
    if os.environ.get("LOCAL_RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0" and line not in (said or ()):
        sys.stderr.write(f"error: {line}\n")
    if said is not None:
        said.add(line)
    return USER_ERROR_EXIT_CODE


def _refuse_dashes(typed: Sequence[str]) -> None:
    """Refuses `--key=value`: Hydra's parser would read `--experiment=` as one of its own flags."""
    for word in typed:
        key, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key not in _FLAGS:
            raise UserError(f"{word}: keys have no dashes; write {key}{equals or '='}{value or '<value>'}")


def _line_of(error: Exception, typed: Sequence[str]) -> str | None:
    """One line for an error that the user can fix; None for a defect of ours."""
    if isinstance(error, UserError):
        return str(error)
    if is_of_hydra(error):  # checked first, because Hydra reports a missing option as an OSError
        return explain(error, typed)
    return _explain_system(error) if isinstance(error, OSError) else None


def _explain_system(error: OSError) -> str | None:
    """One line for an error of the operating system that the user can fix; None for a defect of ours."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}; free some space; the same command with its run_dir resumes from last.ckpt"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = f"{error.filename or 'a file'} may not be read or written here ({error.strerror})"
        return f"{what}; choose another folder, or change its permissions"
    if error.errno == errno.ENAMETOOLONG:
        return f"a name is too long for this disk{where}; choose a shorter one"
    return None


def is_of_hydra(error: Exception) -> bool:
    """Whether Hydra or OmegaConf complains about an override; one of Hydra's errors is a plain ValueError."""
    return isinstance(error, _errors_of_hydra()) or "Config group override must be" in str(error)


def _errors_of_hydra() -> tuple[type[Exception], ...]:
    """The exceptions of Hydra and OmegaConf, imported only when there is an exception."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return HydraException, OmegaConfBaseException
