"""Arguments that the commands on datasets share: keys with values, an environment, datasets and output files."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dof_lightning.config.catalog import check_no_tilde, data_root
from dof_lightning.config.command_line import config_dir_flags, for_hydra, for_shell, split_tail, take
from dof_lightning.errors import UserError

_LEAST = {"episodes": 1, "seed": 0, "horizon": 1, "learned": 1, "version": 0}
_TEXTS = ("name", "source", "dataset", "output", "policy", "format")


def read_values(
    tails: list[str], command: str, required: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, Any], Path]:
    """Reads the values of a command's keys, and data.root."""
    root, others = take_root(tails)
    refuse_unknown(others, command, [*required, *optional, "data.root"])
    typed = dict(map(split_tail, others))
    for key in required:
        if not typed.get(key) or typed[key] == "null":
            raise UserError(f"{key}= is missing; see `dof data {command} --help`")
    values = {key: _value(key, text) for key, text in typed.items()}
    if "name" in typed and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", typed["name"]):
        raise UserError(
            f"name={typed['name']} must be a plain name: letters, digits, _ . + -; set data.root= for its folder"
        )
    return values, root


def _value(key: str, text: str) -> Any:
    """Reads a typed value as text, as YAML, or as a number that the key takes."""
    if key in _TEXTS:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{key}={text} cannot be read; quote it, or write it differently") from None
    if key in _LEAST and not (type(value) is int and value >= _LEAST[key]):
        raise UserError(f"{key}={text} must be an integer, at least {_LEAST[key]}")
    if key == "discount" and not (isinstance(value, (int, float)) and 0 < value <= 1):
        raise UserError(f"discount={text} must be a number above 0 and at most 1")
    return value


def take_root(tails: list[str]) -> tuple[Path, list[str]]:
    """The folder of datasets, `data.root` if typed, and the other tails."""
    root, others = take(tails, "data.root")
    folder = data_root() if root is None else root
    check_no_tilde("data.root", folder)
    return Path(folder), others


def refuse_unknown(tails: list[str], command: str, known: Sequence[str]) -> None:
    """Refuses keys that a command does not have."""
    for tail in tails:
        if split_tail(tail)[0] not in known:
            raise UserError(f"dof data {command} takes {', '.join(f'{key}=' for key in known)}, got {tail!r}")


def split_env(tails: list[str]) -> tuple[Any, list[str]]:
    """Returns the configuration of the environment that is named, if any, and the other tails."""
    from dof_lightning.config import catalog, checks
    from dof_lightning.config import compose as configuration

    mine = [tail for tail in tails if is_of_env(tail)]
    others = [tail for tail in tails if tail not in mine]
    if not any(tail.startswith("env=") for tail in mine):
        if changes := [tail for tail in mine if not tail.startswith("trust=")]:
            raise UserError(f"{changes[0]} changes an environment that is not named; add env=")
        return None, [tail for tail in others if not tail.startswith("trust=")]
    cfg = configuration.compose([f"experiment={catalog.options('experiment')[0]}", *mine])
    checks.check(cfg)
    return cfg, others


def show_next_command(dataset: Path, tails: list[str]) -> None:
    """Prints on stderr, because stdout has the path alone, how to train on a dataset that has just been written.

    Args:
        dataset: its folder.
        tails: what was typed, from which the environment is taken; without one there is no rollout.
    """
    named = any(tail.startswith("env=") for tail in tails)
    world = [tail for tail in tails if is_of_env(tail)] if named else ["rollout=none"]
    words = [*config_dir_flags(sys.argv[1:]), "experiment=none", for_hydra("data.path", dataset), *world]
    print(f"train on it: {for_shell('dof', 'train', *words)}", file=sys.stderr)


def is_of_env(tail: str) -> bool:
    """Whether a tail names or changes the environment, or trusts it."""
    return split_tail(tail)[0].lstrip("+~").split(".")[0] in ("env", "trust")


def dataset_paths(tails: list[str]) -> list[Path | str]:
    """The paths that were typed, or the dataset that an experiment's configuration names."""
    if not tails:
        raise UserError("no dataset is named; type its folder, or experiment=<name>")
    if "=" not in tails[0]:
        return list(tails)
    from dof_lightning.config import checks
    from dof_lightning.config import compose as configuration

    cfg = configuration.compose(tails)
    checks.check(cfg)
    if cfg.data.path is not None:
        return [str(cfg.data.path)]
    source = configuration.build(cfg.data.source)
    if not source.exists():
        command = ("dof", "data", "build", *config_dir_flags(sys.argv[1:]))
        raise UserError(f"{source.path} does not exist; build it with `{for_shell(*command, *tails)}`")
    return [source.path]


def check_output(file: Path, suffix: str) -> None:
    """Refuses a file of another kind, or in a folder that does not exist."""
    if file.suffix != suffix:
        raise UserError(f"output={file} must end in {suffix}")
    if not file.resolve().parent.is_dir():
        raise UserError(f"output={file}: there is no folder {file.parent}; make it, or choose another")
