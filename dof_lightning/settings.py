"""Settings that check themselves: frozen dataclasses whose annotations define which values are allowed."""

import dataclasses
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from dof_lightning.errors import UserError


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, which may be infinite.

    Attributes:
        low, high: the bounds.
        excludes: the bounds that are not allowed themselves.
        because: the reason for the bound, added to the message.
    """

    low: float = -math.inf
    high: float = math.inf
    excludes: Literal["none", "low", "high", "both"] = "none"
    because: str = ""

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; NaN never does."""
        above = value > self.low if self.excludes in ("low", "both") else value >= self.low
        below = value < self.high if self.excludes in ("high", "both") else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.excludes == "none" and math.isfinite(self.low) and math.isfinite(self.high):
            return f"between {self.low:g} and {self.high:g}{self._reason}"
        low = f"above {self.low:g}" if self.excludes in ("low", "both") else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.excludes in ("high", "both") else f"at most {self.high:g}"
        bounds = (text for text, bound in ((low, self.low), (high, self.high)) if math.isfinite(bound))
        return " and ".join(bounds) + self._reason

    @property
    def _reason(self) -> str:
        return f": {self.because}" if self.because else ""


Fraction = Annotated[float, Range(0.0, 1.0)]
FractionBelowOne = Annotated[float, Range(0.0, 1.0, excludes="high")]
UpdateRate = Annotated[float, Range(0.0, 1.0, excludes="low")]
Positive = Annotated[float, Range(0.0, excludes="low")]
NonNegative = Annotated[float, Range(0.0)]
Count = Annotated[int, Range(1)]
WholeNumber = Annotated[int, Range(0)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings. A subclass is a frozen dataclass; making one checks every value.

    Values are judged by their field's annotation: `Literal` choices, and finite `Annotated` numbers with a `Range`, as
    `discount: Fraction = 0.99`; with `| None`, None is allowed too. Conditions on several fields together belong in
    `check`.

    Attributes:
        group: the settings' place in the configuration; messages name `<group>.<field>`.

    Raises:
        UserError: a value is not allowed; names the key and the allowed values.
    """

    group: ClassVar[str] = "algorithm"

    def __post_init__(self) -> None:
        try:
            hints = get_type_hints(type(self), include_extras=True)
        except NameError as error:  # imported for type checkers only, so nothing could be checked
            raise UserError(f"{type(self).__name__} cannot check itself: {error}; import it at run time too") from error
        for field in dataclasses.fields(self):
            check_value(f"{self.group}.{field.name}", getattr(self, field.name), hints[field.name])
        self.check()

    def check(self) -> None:
        """Refuses values that contradict each other.

        Raises:
            UserError: names the key and the fix.
        """


def check_value(key: str, value: Any, annotation: Any) -> None:
    """Refuses a value that an annotation does not allow.

    Args:
        key: the key as the user types it.
        value: the given value.
        annotation: the field's; one without `Callable`, `Literal` choices or `Range` allows everything.

    Raises:
        UserError: names the key, the value and the allowed values.
    """
    options = options_of(annotation)
    if value is None and type(None) in options:
        return
    if any(get_origin(option) is Callable for option in options) and not callable(value):
        raise UserError(f"{key} must be a class or a function: its yaml needs _target_, and _partial_: true")
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if choices and value not in choices:
        raise UserError(f"{key}={value} is unknown; choose one of {', '.join(map(str, choices))}")
    check_range(key, value, annotation)


def check_range(key: str, value: Any, annotation: Any, among: Sequence[Any] | None = None) -> None:
    """Refuses a number outside the `Range` of an annotation.

    Args:
        key: the key as the user types it.
        value: the given value.
        annotation: the field's; one without a `Range` allows everything.
        among: the list that the value is an entry of; None if it is not.

    Raises:
        UserError: names the key, the value and the range.
    """
    options = options_of(annotation)
    if value is None and type(None) in options:
        return
    if any(_is_one_of(option, value) for option in options):
        return
    ranges = [extra for option in options for extra in getattr(option, "__metadata__", ()) if isinstance(extra, Range)]
    or_null = ", or null" if type(None) in options else ""
    whole = any(get_args(option)[:1] == (int,) for option in options)
    shown = f"{value}" if among is None else f"[{','.join(map(str, among))}]: each"
    for allowed in ranges:
        if not _is_number(value, whole) or not allowed.holds(value):
            raise UserError(f"{key}={shown} must be {allowed}{or_null}")


def _is_one_of(option: Any, value: Any) -> bool:
    """Whether a member of a union that has no range allows a value: a choice, a text or a truth value."""
    if get_origin(option) is Literal:
        return value in get_args(option)
    return option in (str, bool) and type(value) is option


def options_of(annotation: Any) -> Sequence[Any]:
    """The members of a union; any other annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is_number(value: Any, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
