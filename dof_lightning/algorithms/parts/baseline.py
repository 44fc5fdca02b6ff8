"""The common part of all baselines: settings, normalised observations, and averages that follow networks."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from dof_lightning.algorithms.base import PADDED_TAILS, Algorithm, AlgorithmSettings, ParameterGroup
from dof_lightning.errors import UserError
from dof_lightning.networks.ema import ema_update
from dof_lightning.normalization import Normalizer, NormalizerName, build_normalizer
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.settings import FractionBelowOne, Positive
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec

PolicyT = TypeVar("PolicyT", bound=DecentralizedPolicy)


@dataclass(frozen=True, kw_only=True)
class BaselineSettings(AlgorithmSettings):
    """Settings of every baseline; its agents act alone, so centralised execution is refused.

    Attributes:
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: Adam's learning rate for actors, or for values if there are no actors.
        gradient_clip: largest gradient norm (per agent if networks are independent); None means no clipping.
        ema_decay: decay of the averaged networks, which act and make TD targets.
    """

    observation_normalizer: NormalizerName = "gaussian"
    learning_rate: Positive = 3e-4
    gradient_clip: Positive | None = None
    ema_decay: FractionBelowOne = 0.995

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; nothing diffuses."""
        return super().idle(action_kind) | {PADDED_TAILS: "no rows of a window diffuse"}

    def check(self) -> None:
        """See the base class."""
        check_local(self.execution)


def check_local(execution: str) -> None:
    """Refuses centralised execution for agents that act by their own networks.

    Raises:
        UserError: names the setting to type instead.
    """
    if execution != "decentralized":
        raise UserError(
            f"execution={execution}: agents read their own observations and act alone; use execution=decentralized"
        )


@dataclass(frozen=True)
class Learned:
    """A network that is trained, and the moving average that follows it.

    Attributes:
        group: the parameter group; the networks of a group are clipped together.
        network: takes the gradients.
        average: takes none, from `ema_copy(network)`.
    """

    group: str
    network: nn.Module
    average: nn.Module


class Baseline(Algorithm):
    """Base of the baselines: subclasses define which networks are `learned`, and how.

    Attributes:
        action_mask: `[N, A]` bool, False where an agent's action is padding.
        normalizer: of observations.
    """

    settings: BaselineSettings
    action_mask: Tensor

    def __init__(self, spec: DatasetSpec, settings: BaselineSettings) -> None:
        super().__init__(spec, settings)
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(settings.observation_normalizer, spec.statistics.observations)

    @abstractmethod
    def learned(self) -> list[Learned]:
        """The networks that are trained at the common learning rate."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of `learned`, in the order in which they are first named."""
        learned, rate, clip = self.learned(), self.settings.learning_rate, self.settings.gradient_clip
        return [
            ParameterGroup(name, tuple(part.network for part in learned if part.group == name), rate, clip)
            for name in dict.fromkeys(part.group for part in learned)
        ]

    def after_step(self) -> None:
        """Updates the moving averages."""
        for part in self.learned():
            ema_update(part.average, part.network, self.settings.ema_decay)

    def players(self, kind: Callable[[Any, Normalizer, Tensor], PolicyT], network: nn.Module) -> PolicyT:
        """Builds agents that act by a network; if its weights are sharded, by a copy that holds all of them."""
        return kind(whole(network), self.normalizer, self.action_mask).eval()
