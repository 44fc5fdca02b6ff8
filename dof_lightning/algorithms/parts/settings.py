"""Settings that all baselines have in common."""

from abc import ABC
from dataclasses import dataclass

from dof_lightning.algorithms.base import AlgorithmSettings
from dof_lightning.errors import UserError
from dof_lightning.settings import FractionBelowOne, Positive


@dataclass(frozen=True, kw_only=True)
class BaselineSettings(AlgorithmSettings, ABC):
    """What every baseline can be told; its agents act alone, so centralised execution is refused.

    Attributes:
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of Adam, for actors, or for values where there are no actors.
        gradient_clip: largest gradient norm (of each agent where networks are independent), None for no clipping.
        ema_decay: of the averaged networks, which act and make TD targets.
    """

    observation_normalizer: str = "gaussian"
    learning_rate: Positive = 3e-4
    gradient_clip: Positive | None = None
    ema_decay: FractionBelowOne = 0.995

    def check(self) -> None:
        """See the base class."""
        check_local(self.execution)


def check_local(execution: str) -> None:
    """Refuses centralised execution where agents act by networks of their own.

    Raises:
        UserError: says what to type.
    """
    if execution != "decentralized":
        raise UserError(
            f"execution={execution}: agents read their own observations and act alone; use execution=decentralized"
        )
