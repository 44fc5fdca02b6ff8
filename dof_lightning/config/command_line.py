"""The `key=value` tails of commands: those that a command reads itself, those for Hydra, and how both are printed."""

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from dof_lightning.errors import UserError

_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z./][\w./+-]*", re.ASCII)
_OTHER_THAN_TEXT = ("null", "true", "false", "nan", "inf")  # to Hydra, in upper or lower case


_WITH_A_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--cfg",
    "-c",
    "--experimental-rerun",
)
_PERHAPS_WITH_A_VALUE = ("--info", "-i")


def flags_first(words: list[str]) -> list[str]:
    """Moves Hydra's flags before the overrides: its parser ends the overrides at the first flag."""
    flags: list[str] = []
    overrides: list[str] = []
    takes_value = False
    for word, following in zip(words, [*words[1:], "="], strict=True):
        (flags if takes_value or word.startswith("-") else overrides).append(word)
        may_follow = "=" not in following and not following.startswith("-")
        needed = word in _WITH_A_VALUE or (word in _PERHAPS_WITH_A_VALUE and may_follow)
        takes_value = needed and not takes_value
    return [*flags, *overrides]


def config_dirs(words: list[str]) -> list[Path]:
    """The folders that Hydra's flag `--config-dir` names."""
    named = [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    named += [folder for word, folder in pairwise(words) if word in ("--config-dir", "-cd")]
    return [Path(folder) for folder in named]


def config_dir_flags(words: list[str]) -> list[str]:
    """The flags that name the folders of `config_dirs`, for the command of another process."""
    return [word for folder in config_dirs(words) for word in ("--config-dir", str(folder))]


def without_config_dirs(words: Sequence[str]) -> list[str]:
    """The other words, for commands that are not Hydra's; the folders are found in `sys.argv`.

    Raises:
        UserError: a folder is missing after the flag, or does not exist.
    """
    flags = ("--config-dir", "-cd")
    if (words and words[-1] in flags) or any(f"{flag}=" in words for flag in flags):
        raise UserError("--config-dir names no folder; type it after the flag")
    for folder in config_dirs(list(words)):
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
    return [
        word
        for before, word in zip(("", *words), words, strict=False)
        if word.partition("=")[0] not in flags and before not in flags
    ]


def for_hydra(key: str, value: str | Path) -> str:
    """An override that sets a key to exactly this text, whatever its characters."""
    text = str(value)
    if _NEEDS_NO_QUOTES.fullmatch(text) and text.lower() not in _OTHER_THAN_TEXT:
        return f"{key}={text}"
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'{key}="{escaped}"'.replace("${", "\\${")


def for_shell(*words: str) -> str:
    """The words of a command, quoted so that they can be pasted into a shell."""
    return shlex.join(words)


def take_integer(tails: list[str], wanted: str, default: int, least: int) -> tuple[int, list[str]]:
    """Takes an integer of at least `least`; returns it, and the tails without it.

    Raises:
        UserError: the value is not such an integer.
    """
    text, others = take(tails, wanted)
    if text is not None and not (text.isdecimal() and int(text) >= least):
        raise UserError(f"{wanted} must be an integer, at least {least}, got {text!r}")
    return (default if text is None else int(text)), others


def take_positive(tails: list[str], wanted: str) -> tuple[float | None, list[str]]:
    """Takes a number above 0; returns it (None if none is typed), and the tails without it.

    Raises:
        UserError: the value is not such a number.
    """
    text, others = take(tails, wanted)
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = -1.0
    if value is not None and not value > 0:
        raise UserError(f"{wanted} must be a number above 0, got {text!r}")
    return value, others


def take_truth(tails: list[str], wanted: str, default: bool) -> tuple[bool, list[str]]:
    """Takes true or false; returns it, and the tails without it.

    Raises:
        UserError: the value is neither.
    """
    text, others = take(tails, wanted)
    if text not in (None, "true", "false"):
        raise UserError(f"{wanted} must be true or false, got {text!r}")
    return (default if text is None else text == "true"), others


def take(tails: list[str], wanted: str) -> tuple[str | None, list[str]]:
    """Takes the value of one key; returns it, and the tails without it.

    Raises:
        UserError: a tail is not `key=value`, or the key's value is empty, as `output=$UNSET` is.
    """
    pairs = [split_tail(tail) for tail in tails]
    values = [value for key, value in pairs if key == wanted]
    if "" in values:
        raise UserError(f"{wanted}= is empty; type a value, or leave it out")
    return (values[-1] if values else None), [f"{key}={value}" for key, value in pairs if key != wanted]


def split_tail(tail: str) -> tuple[str, str]:
    """Splits a tail into its key and its value.

    Raises:
        UserError: the tail is not `key=value`.
    """
    key, separator, value = tail.partition("=")
    if not separator:
        raise UserError(f"cannot read {tail!r}; write key=value")
    return key, value
