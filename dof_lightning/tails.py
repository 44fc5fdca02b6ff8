"""`key=value` tails of commands: what a command takes for itself, and what is left for Hydra."""

from dof_lightning.errors import UserError
from dof_lightning.plain import split_tail


def take_integer(tails: list[str], wanted: str, default: int, least: int) -> tuple[int, list[str]]:
    """An integer of at least `least`, and the tails without it.

    Raises:
        UserError: it is none.
    """
    text, others = take(tails, wanted)
    if text is not None and not (text.isdecimal() and int(text) >= least):
        raise UserError(f"{wanted} must be an integer, at least {least}, got {text!r}")
    return (default if text is None else int(text)), others


def take(tails: list[str], wanted: str) -> tuple[str | None, list[str]]:
    """The value of one key, and the tails without it."""
    pairs = [split_tail(tail) for tail in tails]
    values = [value for key, value in pairs if key == wanted]
    return (values[-1] if values else None), [f"{key}={value}" for key, value in pairs if key != wanted]
