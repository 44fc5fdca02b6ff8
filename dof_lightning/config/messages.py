"""What a user reads instead of a traceback; it loads nothing before something went wrong."""

import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dof_lightning.config.catalog import groups, options
from dof_lightning.config.identity import leaves
from dof_lightning.errors import UserError

USER_ERROR_EXIT_CODE = 2


def unknown_key(key: str, known: Sequence[str]) -> str:
    """One line for a key that is not there, with the nearest that is."""
    if re.match(r"env\.arguments\.", key):
        return (
            f"unknown key `{key}`; to give env.factory an argument that its yaml does not name, type `+{key}=<value>`"
        )
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{close[0]}`?" if close else "`python train.py --cfg job` shows all keys"
    return f"unknown key `{key}`; {hint}"


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """One line for an exception of Hydra or OmegaConf: the key, and the choices or the fix.

    The experiment and the algorithm among the `overrides` that were typed say which keys there are.
    """
    from hydra.errors import InstantiationException, MissingConfigException

    if isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group in ("hydra/launcher", "hydra/sweeper"):
            return f"{group}={option} is not installed; pip install 'dof-lightning[sweep]' has joblib, submitit, optuna"
        return f"{group}={option} does not exist; choose one of {', '.join(options(group))}"
    if re.match(r"Could not override 'suite'", text):
        return "a suite of many runs is started by `dof bench suite=<name>` (docs/benchmarking.md), not by train.py"
    if re.match(r"Could not override 'study\.", text):
        return "there is no study here; name one by study=<name>, or use an experiment that has one (docs/studies.md)"
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return unknown_key(unknown[1], _known_keys(overrides))
    if appended := re.match(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"`{appended[1]}` exists already; drop the + before it"
    if parsed := re.match(r"Error parsing override '(.*?)'", text):
        return f"cannot read {parsed[1]!r}; write key=value"
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        where = re.search(r"full_key: (\S+)", text)
        return f"{where[1] if where else 'configuration'} cannot be built: {' '.join(str(error.__cause__).split())}"
    return re.sub(r" (See https|full_key:|object_type=).*", "", text)


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """Of the experiment and algorithm that are named, as far as they exist."""
    from omegaconf import OmegaConf

    from dof_lightning.config import compose as configuration

    default = f"experiment={options('experiment')[0]}"
    typed = {text.partition("=")[0]: text for text in (default, *overrides)}
    named = [text for key, text in typed.items() if key in ("experiment", "algorithm")]
    try:
        cfg = configuration.compose(named)
    except UserError:
        cfg = configuration.compose([default])
    plain = OmegaConf.to_container(cfg, resolve=False)
    return [name for name, _ in leaves(plain)] + groups()


def exit_with_one_line(main: Callable[[], Any], typed: Sequence[str] = ()) -> int:
    """Runs a command; mistakes of the user become one line on stderr and exit code 2, defects keep their traceback.

    Returns the exit code; `typed` are the command's overrides, for `explain`.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except UserError as error:
        line = str(error)
    except _errors_of_hydra() as error:
        line = explain(error, typed)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        line = f"the disk is full{where}; make room, then the same command, with its run_dir, goes on from last.ckpt"
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was saved stays, and the same command goes on from it\n")
        return 128 + signal.SIGINT
    else:
        return 0
    if os.environ.get("LOCAL_RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0":
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
    return USER_ERROR_EXIT_CODE


def _errors_of_hydra() -> tuple[type[Exception], ...]:
    """The exceptions of Hydra and OmegaConf, asked for when there is an exception only."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return HydraException, OmegaConfBaseException
