"""Settings refuse what their annotations do not allow, naming the key and what would be allowed."""

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Literal

import pytest

from dof_lightning.errors import UserError
from dof_lightning.settings import Count, Fraction, FractionBelowOne, NonNegative, Positive, Range, Settings


@dataclass(frozen=True, kw_only=True)
class Own(Settings):
    discount: Fraction = 0.99
    ema_decay: FractionBelowOne = 0.995
    learning_rate: Positive = 1e-3
    alpha: NonNegative = 0.0
    gradient_clip: Positive | None = None
    samples: Count = 1
    horizon: Annotated[int, Range(2, because="the current row and one that is planned")] = 2
    critics: Literal["none", "mixed"] = "none"

    def check(self) -> None:
        if self.critics == "none" and self.samples > 1:
            raise UserError("algorithm.samples above 1 needs critics")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("discount", 1.1, r"algorithm\.discount=1\.1 must be between 0 and 1"),
        ("discount", math.nan, "must be between 0 and 1"),
        ("ema_decay", 1.0, "must be at least 0 and below 1"),
        ("learning_rate", 0.0, "must be above 0$"),
        ("alpha", -1, "must be at least 0"),
        ("gradient_clip", 0, "must be above 0, or null"),
        ("samples", 0, "must be at least 1"),
        ("samples", 2.5, "must be at least 1"),
        ("samples", True, "must be at least 1"),
        ("learning_rate", math.inf, "must be above 0"),
        ("samples", None, "must be at least 1"),
        ("horizon", 1, "must be at least 2: the current row and one that is planned"),
        ("critics", "other", "algorithm.critics=other is unknown; choose one of none, mixed"),
        ("samples", 2, "needs critics"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(key: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Own(**{key: value})


def test_what_is_allowed_is_kept_and_frozen() -> None:
    own = Own(gradient_clip=0.5, critics="mixed", samples=2, discount=0)
    assert own.samples == 2
    with pytest.raises(FrozenInstanceError):
        own.samples = 3  # type: ignore[misc]
