"""Configurations as plain containers: their leaves, what tells two apart, what identifies one, and typed changes."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dof_lightning.errors import UserError

_WHERE_NOT_WHAT = ("run_dir", "resume", "trust")


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values below nested mappings, by dotted key."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def config_hash(plain: Mapping[str, Any]) -> str:
    """Identifies what is run, wherever it is run from and stored."""
    what = {key: value for key, value in plain.items() if key not in _WHERE_NOT_WHAT}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first leaf below `keys` in which two configurations differ, `key: theirs there, ours here`."""
    mine = dict(leaves({key: ours.get(key) for key in keys}))
    other = dict(leaves({key: theirs.get(key) for key in keys}))
    for key in [*other, *mine]:
        if mine.get(key) != other.get(key):
            return f"{key} is {other.get(key)!r} there, {mine.get(key)!r} here"
    return None


def split_tail(tail: str) -> tuple[str, str]:
    """Key and value of what a user typed.

    Raises:
        UserError: it is not `key=value`.
    """
    key, separator, value = tail.partition("=")
    if not separator:
        raise UserError(f"cannot read {tail!r}; write key=value")
    return key, value
