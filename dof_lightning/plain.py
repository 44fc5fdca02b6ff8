"""What is read from a file that anybody may have touched: plain values only, of the kinds they should be."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

NUMBER = (int, float)
TEXT_OR_NONE = (str, type(None))
NUMBER_OR_NONE = (int, float, type(None))

_DEEPEST = 60
_MOST = 100_000
_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "named values",
    type(None): "null",
}


def parse_json(text: str | bytes, infinity: bool = False, most: int | None = _MOST) -> Any:
    """Reads JSON as the standard has it: without NaN, and no deeper than anything we write.

    Args:
        text: of the file or line.
        infinity: Infinity and -Infinity are numbers too, as Python writes them.
        most: values that it may hold; None: any number.

    Raises:
        ValueError: it is none; the message says why, in one line.
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


def check_plain(node: Any, depth: int = 0, most: int | None = _MOST) -> int:
    """Counts the values of nested dicts and lists that end in numbers, texts, truth values and None.

    Raises:
        ValueError: something else is among them, or they are too many or too deep for anything that we write.
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


def check_kinds(node: Any, kinds: Mapping[str, type | tuple[type, ...]], where: str = "") -> None:
    """Holds values against the kinds that they should be of; truth values are no numbers.

    Args:
        node: nested mappings.
        kinds: of each dotted key that has to be there; `dict` is any mapping.
        where: what the node is called in the message.

    Raises:
        ValueError: names the first key that is missing or of another kind.
    """
    if not isinstance(node, Mapping):
        raise ValueError(f"{where or 'it'} is not made of named values")
    for key, kind in kinds.items():
        value: Any = node
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(f"{where}{key} is missing")
            value = value[part]
        if not is_kind(value, kind):
            allowed = kind if isinstance(kind, tuple) else (kind,)
            words = " or ".join(_WORDS[one] for one in allowed if not (one is int and float in allowed))
            raise ValueError(f"{where}{key} must be {words}, got {_shown(value)}")


def is_kind(value: Any, kind: type | tuple[type, ...]) -> bool:
    """`isinstance`, with any mapping for `dict` and without truth values among numbers."""
    allowed = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, tuple(Mapping if one is dict else one for one in allowed))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
