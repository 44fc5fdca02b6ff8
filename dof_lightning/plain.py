"""Safe reading of untrusted files: plain values only, no deeper and no more of them than we write."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

_DEEPEST = 60
_MOST = 100_000


def parse_json(text: str | bytes, infinity: bool = False, most: int | None = _MOST) -> Any:
    """Reads JSON as the standard has it: without NaN, and no deeper than anything we write.

    Args:
        text: the text of the file or line.
        infinity: whether Infinity and -Infinity are numbers too, as Python writes them.
        most: largest number of values that it may contain; None means any number.

    Raises:
        ValueError: the text is not such JSON; the message gives the reason in one line.
    """
    try:
        node = json.loads(text, parse_constant=_infinity if infinity else _refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    check_plain(node, most=most)
    return node


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _infinity(constant: str) -> float:
    return float(constant) if "Infinity" in constant else _refuse(constant)


def find_reference(node: Any) -> str | None:
    """Finds a text (or key) in nested dicts and lists that Hydra would resolve, `${...}`; None if there is none.

    What we store is resolved. A reference can make Hydra build a class that no check of the stored text has seen.
    """
    if isinstance(node, Mapping):
        parts: list[Any] = [*node, *node.values()]
    elif isinstance(node, list | tuple):
        parts = list(node)
    else:
        return node if isinstance(node, str) and "${" in node else None
    return next((found for part in parts if (found := find_reference(part)) is not None), None)


def check_plain(node: Any, depth: int = 0, most: int | None = _MOST) -> int:
    """Counts the values of nested dicts and lists that end in numbers, texts, truth values and None.

    Raises:
        ValueError: another type is among them, or they are more or deeper than anything that we write.
    """
    if depth > _DEEPEST:
        raise ValueError("it is nested too deep")
    if isinstance(node, Mapping):
        for key in node:
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text")
        children = list(node.values())
    elif isinstance(node, list | tuple):
        children = list(node)
    elif isinstance(node, str | int | float | None):
        return 1
    else:
        raise ValueError(f"{type(node).__name__} is no plain value")
    count = 1
    for child in children:
        count += check_plain(child, depth + 1, most)
        if most is not None and count > most:
            raise ValueError("it holds too many values")
    return count
