"""The team's value as a mixture of the agents' own values, and its regression to the team's return."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.base import PADDED_TAILS, AlgorithmSettings
from dof_lightning.algorithms.parts.baseline import check_local
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.factorization.value import Sum
from dof_lightning.networks.value import AgentwiseValue
from dof_lightning.normalization import Normalizer, NormalizerName, is_constant
from dof_lightning.settings import Count, FractionBelowOne, Positive
from dof_lightning.spec import ActionKind, DatasetSpec


@dataclass(frozen=True, kw_only=True)
class ValueSettings(AlgorithmSettings):
    """Settings that algorithms that learn the team's value share.

    Attributes:
        values: q_i, called with the spec and `condition_dim`.
        value_mixer: h, from the agents' values to the team's, called with the spec and `state_dim`.
        candidates: M, number of uniform draws of which an agent takes the best if actions are continuous.
        observation_normalizer: `identity`, `limits`, `gaussian` (not clipped) or `cdf`.
        value_learning_rate: Adam's learning rate for q_i and h.
        ema_decay: decay of the moving averages that act.
    """

    values: Callable[..., AgentwiseValue] = AgentwiseValue
    value_mixer: Callable[..., ValueMixer] = Sum
    candidates: Count = 16
    observation_normalizer: NormalizerName = "gaussian"
    value_learning_rate: Positive = 3e-3
    ema_decay: FractionBelowOne = 0.99

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; if actions are discrete, all choices are rated and none are drawn."""
        drawn = {"candidates": "actions are discrete"} if action_kind == "discrete" else {}
        return super().idle(action_kind) | {PADDED_TAILS: "no rows of a window diffuse"} | drawn

    def check(self) -> None:
        """Refuses centralised execution: every agent reads its own values."""
        check_local(self.execution)


class TeamValue(nn.Module):
    """Q_tot = h(q_1(o_1, u_1) .. q_N(o_N, u_N)) and the loss (y - Q_tot)^2.

    y is the team's return from the current row on (mean over agents; the payoff, in a one-shot game), moved and scaled
    so that the dataset's returns fill [-1/2, 1/2]: then the additive shares of any of them fit into the (-1, 1) of the
    q_i.

    Args:
        spec: the dataset's spec.
        values: called with the spec and `condition_dim`.
        value_mixer: h, called with the spec and `state_dim`.

    Raises:
        UserError: all returns of the dataset are equal.

    Attributes:
        center, scale: return = center + scale * Q_tot.
    """

    def __init__(
        self, spec: DatasetSpec, values: Callable[..., AgentwiseValue], value_mixer: Callable[..., ValueMixer]
    ) -> None:
        super().__init__()
        self.network = values(spec, condition_dim=spec.observation_dim)
        self.mixer = value_mixer(spec, state_dim=spec.n_agents * spec.observation_dim)
        knots = spec.statistics.discounted_return_knots
        low, high = float(knots[0]), float(knots[-1])
        if is_constant(low, high - low):
            raise UserError(
                f"dataset {spec.name!r}: every return is {low:g}, there is no value to learn; choose other data="
            )
        self.center, self.scale = (low + high) / 2, high - low

    def forward(self, now: Situation, actions: Tensor) -> Tensor:
        """The agents' own values `[B, N, 1]` of encoded actions `[B, N, A]`."""
        values: Tensor = self.network(now.condition, actions)
        return values

    def mix(self, values: Tensor, now: Situation) -> Tensor:
        """Q_tot `[B, 1]` of values `[B, N, 1]`; dead agents have no weight, nor do their observations."""
        condition = now.condition
        if now.alive is not None:
            values, condition = values * now.alive[..., None], condition * now.alive[..., None]
        mixed: Tensor = self.mixer(values, condition.flatten(1))
        return mixed

    def loss(self, mixed: Tensor, batch: EpisodeBatch) -> Tensor:
        """The mean squared error of Q_tot `[B, 1]` over the rows that are real."""
        returns = batch.return_to_go[:, :, batch.history].mean(1, keepdim=True)
        real = batch.transition_mask[:, :, batch.history].any(1, keepdim=True)
        return (real * (mixed - (returns - self.center) / self.scale).square()).mean()

    def team_return(self, values: Tensor, now: Situation) -> Tensor:
        """Q_tot in the unit of returns; arguments as in `mix`."""
        return self.center + self.scale * self.mix(values, now)


def current_row(
    batch: EpisodeBatch, normalizer: Normalizer, spec: DatasetSpec, mask: Tensor
) -> tuple[Situation, Tensor]:
    """The current row of a batch, and the encoded actions `[B, N, A]` in it.

    Args:
        batch: windows.
        normalizer: the normaliser of observations.
        spec: the dataset's spec.
        mask: `[N, A]` bool, True for real entries of actions.
    """
    now = Situation.of(batch, batch.history, normalizer)
    codec = CODECS[spec.action_kind]
    return now, codec.encode(batch.actions[:, :, batch.history], mask, like=now.condition)
