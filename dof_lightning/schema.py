"""Schemas of files: the keys, types and ranges that a file must have; errors name the first departure."""

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[str, Any], None]  # raises ValueError that begins with the place, as `shards[0].n_bytes`

_SHOWN = 40  # characters of a wrong value


def refuse(place: str, wanted: str, value: Any) -> ValueError:
    """The error for a value that violates its schema."""
    shown = repr(value)
    return ValueError(f"{place} must be {wanted}, got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}")


def _test(wanted: str, holds: Callable[[Any], bool]) -> Check:
    def check(place: str, value: Any) -> None:
        if not holds(value):
            raise refuse(place, wanted, value)

    return check


def whole(least: int, most: int = 10**15) -> Check:
    """An integer; truth values are not integers."""
    return _test(
        f"an integer of at least {least}" + (f" and at most {most:,}" if most < 10**15 else ""),
        lambda value: type(value) is int and least <= value <= most,
    )


def number(least: float = -math.inf, most: float = math.inf) -> Check:
    """A finite number."""
    bounds = [f" of at least {least:g}"] * (least > -math.inf) + [f" at most {most:g}"] * (most < math.inf)
    return _test(
        f"a finite number{' and'.join(bounds)}",
        lambda value: type(value) in (int, float) and math.isfinite(value) and least <= value <= most,
    )


real = _test("a number", lambda value: type(value) in (int, float))  # excludes infinity, too


def is_digest(value: Any) -> bool:
    """Whether a value can be a sha256."""
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def one_of(*choices: str) -> Check:
    """One of several texts."""
    return _test(" or ".join(choices), lambda value: isinstance(value, str) and value in choices)


text = _test("text", lambda value: isinstance(value, str) and value != "")
digest = _test("64 hexadecimal digits", is_digest)
truth = _test("true or false", lambda value: isinstance(value, bool))
anything = _test("anything", lambda value: True)
mapping = _test("an object", lambda value: isinstance(value, Mapping))


def optional(inner: Check) -> Check:
    """Null, or a value that satisfies `inner`."""
    return lambda place, value: None if value is None else inner(place, value)


def many(inner: Check, least: int = 0) -> Check:
    """A list."""
    is_list = _test("a list" if least == 0 else f"a list, at least {least} long", lambda v: _is_list(v, least))

    def check(place: str, value: Any) -> None:
        is_list(place, value)
        for index, entry in enumerate(value):
            inner(f"{place}[{index}]", entry)

    return check


def record(fields: Mapping[str, Check], others: Check | None = None, optional_keys: tuple[str, ...] = ()) -> Check:
    """An object.

    Args:
        fields: the schema of each key.
        others: the schema of keys with other names; None forbids them.
        optional_keys: the keys of `fields` that may be missing.
    """

    def check(place: str, value: Any) -> None:
        mapping(place or "it", value)
        prefix = f"{place}." if place else ""
        if missing := [key for key in fields if key not in value and key not in optional_keys]:
            raise ValueError(f"{prefix}{missing[0]} is missing")
        for key, entry in value.items():
            inner = fields.get(key, others)
            if inner is None:
                raise ValueError(f"{prefix}{key} is an unknown key")
            inner(f"{prefix}{key}", entry)

    return check


def _is_list(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) >= least
