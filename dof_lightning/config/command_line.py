"""`key=value` tails of commands: what a command takes for itself, what is left for Hydra, and how both are printed."""

import re
import shlex
from pathlib import Path

from dof_lightning.errors import UserError

_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z./][\w./+-]*", re.ASCII)
_OTHER_THAN_TEXT = ("null", "true", "false", "nan", "inf")  # to Hydra, in any case


def for_hydra(key: str, value: str | Path) -> str:
    """An override that sets a key to this very text, whatever its characters are."""
    text = str(value)
    if _NEEDS_NO_QUOTES.fullmatch(text) and text.lower() not in _OTHER_THAN_TEXT:
        return f"{key}={text}"
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'{key}="{escaped}"'.replace("${", "\\${")


def for_shell(*words: str) -> str:
    """Words of a command as they can be pasted into a shell."""
    return shlex.join(words)


def take_integer(tails: list[str], wanted: str, default: int, least: int) -> tuple[int, list[str]]:
    """An integer of at least `least`, and the tails without it.

    Raises:
        UserError: it is none.
    """
    text, others = take(tails, wanted)
    if text is not None and not (text.isdecimal() and int(text) >= least):
        raise UserError(f"{wanted} must be an integer, at least {least}, got {text!r}")
    return (default if text is None else int(text)), others


def take_positive(tails: list[str], wanted: str) -> tuple[float | None, list[str]]:
    """A number above 0, None where none is typed, and the tails without it.

    Raises:
        UserError: it is none.
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
    """True or false, and the tails without it.

    Raises:
        UserError: it is neither.
    """
    text, others = take(tails, wanted)
    if text not in (None, "true", "false"):
        raise UserError(f"{wanted} must be true or false, got {text!r}")
    return (default if text is None else text == "true"), others


def take(tails: list[str], wanted: str) -> tuple[str | None, list[str]]:
    """The value of one key, and the tails without it.

    Raises:
        UserError: a tail is not `key=value`, or the key's value is empty, as `output=$UNSET` is.
    """
    pairs = [split_tail(tail) for tail in tails]
    values = [value for key, value in pairs if key == wanted]
    if "" in values:
        raise UserError(f"{wanted}= is empty; type a value, or leave it out")
    return (values[-1] if values else None), [f"{key}={value}" for key, value in pairs if key != wanted]


def split_tail(tail: str) -> tuple[str, str]:
    """Key and value of what a user typed.

    Raises:
        UserError: it is not `key=value`.
    """
    key, separator, value = tail.partition("=")
    if not separator:
        raise UserError(f"cannot read {tail!r}; write key=value")
    return key, value
