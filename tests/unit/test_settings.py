"""Settings refuse what their annotations do not allow, naming the key and what would be allowed."""

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, Literal

import pytest

from dof_lightning.algorithms.bc import BC, BCSettings
from dof_lightning.checkpoints.overrides import override
from dof_lightning.config import compose as configuration
from dof_lightning.config.arguments import check_arguments
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


@dataclass(frozen=True, kw_only=True)
class MyMethodSettings(BCSettings):
    """Settings of a researcher's own algorithm: this project knows none of its keys."""

    beta: Positive = 0.5
    style: Literal["bold", "shy"] = "bold"
    quantiles: Count = 8

    def check(self) -> None:
        super().check()
        if self.style == "shy" and self.beta > 1:
            raise UserError("algorithm.style=shy needs algorithm.beta of at most 1")


class MyMethod(BC, made_by=MyMethodSettings):
    settings: MyMethodSettings


def _configured(**changes: Any) -> dict[str, Any]:
    return {"algorithm": {"_target_": f"{__name__}.MyMethodSettings", **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta": 0}, "^algorithm.beta=0 must be above 0$"),
        ({"beta": math.nan}, "^algorithm.beta=nan must be above 0$"),
        ({"beta": "much"}, "^algorithm.beta"),
        ({"quantiles": 2.5}, "^algorithm.quantiles"),
        ({"style": "loud"}, "^algorithm.style.*bold"),
        ({"style": "shy", "beta": 2}, "^algorithm.style=shy needs"),
        ({"learning_rate": -1.0}, "^algorithm.learning_rate=-1.0 must be above 0$"),  # inherited keys as well
        ({"gamma": 1}, "gamma"),
    ],
)
def test_an_algorithm_of_ones_own_checks_its_own_keys_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        configuration.build(_configured(**changes)["algorithm"])
    assert "\n" not in str(raised.value)


def test_an_algorithm_of_ones_own_is_built_with_its_own_keys_and_evaluated_with_others() -> None:
    made = configuration.build(_configured(beta=0.1, style="shy")["algorithm"])
    assert (made.beta, made.makes()) == (0.1, MyMethod)
    check_arguments(_configured(beta=0.1))
    stored = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random"])) | _configured(beta=0.1)
    changed = override(stored, ["trust=true", "algorithm.beta=0.2"])
    assert configuration.build(changed["algorithm"]).beta == 0.2


def test_settings_that_cannot_check_themselves_say_so() -> None:
    hidden = {"__annotations__": {"beta": "OnlyForTypeCheckers"}, "beta": 1, "__module__": __name__}
    kind = dataclass(frozen=True, kw_only=True)(type("Hidden", (Own,), hidden))
    with pytest.raises(UserError, match=r"Hidden cannot check itself: .*OnlyForTypeCheckers"):
        kind()
