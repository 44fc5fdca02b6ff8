"""Values learned beside plans: those that define an agent's condition, and those by which it ranks its plans."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.parts.advantage import AdvantageCondition
from dof_lightning.algorithms.parts.critic_settings import (
    CriticSettings,
    ExpectileShare,
    build_team_critic,
    build_value_learning,
)
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.value_learning import Experience
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.normalization import Normalizer
from dof_lightning.settings import Count, Fraction, Settings
from dof_lightning.spec import DatasetSpec

PLAN_CRITIC = partial(AgentwiseCritic, hidden=(128, 128), activation="silu")
_ASKING_FOR_RETURNS = ("target_return", "target_quantile", "return_update")
_OF_CRITICS = ("critic", "value_learning", "expectile", "discount")


@dataclass(frozen=True, kw_only=True)
class PlanValueSettings(Settings):
    """Settings of the values that planners learn beside plans; by default there are none.

    Attributes:
        returns: what agents are conditioned on: `total`, R_t / returns_scale, or `advantage`, z_i of
            `AdvantageCondition` (ours).
        target_advantage: z, requested in every step at execution if `returns=advantage`, in standard deviations.
        critics: `none`, or `separate`: agent i learns Q_i(o_i, a_i) from r_i, to rank its plans by their first actions
            (ours).
        critic: twin Q_i, called with the spec and `condition_dim`.
        value_learning: how Q_i is learned, see `CriticSettings`: `implicit` or `expectile`, whose targets need no
            plans, which would be most of an update's cost.
        expectile: tau of `expectile`.
        discount: gamma of Q_i.
        candidates: M, number of plans that an agent draws at execution.
    """

    returns: Literal["total", "advantage"] = "total"
    target_advantage: float = 2.0
    critics: Literal["none", "separate"] = "none"
    critic: Callable[..., AgentwiseCritic] = PLAN_CRITIC
    value_learning: Literal["implicit", "expectile"] = "expectile"
    expectile: ExpectileShare = 0.7
    discount: Fraction = 0.99
    candidates: Count = 1


def idle_of_plan_values(settings: PlanValueSettings) -> dict[str, str]:
    """The fields that nothing reads, including those of returns; see `AlgorithmSettings.idle`."""
    found = {"target_advantage": "algorithm.returns=total"}
    if settings.returns == "advantage":
        found = dict.fromkeys(_ASKING_FOR_RETURNS, "algorithm.returns=advantage")
    if settings.critics == "none":
        return found | dict.fromkeys(_OF_CRITICS, "algorithm.critics=none")
    if settings.value_learning != "expectile":
        found["expectile"] = f"algorithm.value_learning={settings.value_learning}"
    return found


def check_plan_values(settings: PlanValueSettings) -> None:
    """Refuses to rank by values if none are learned.

    Raises:
        UserError: names the keys and the fix.
    """
    if settings.candidates > 1 and settings.critics == "none":
        raise UserError(
            f"algorithm.candidates={settings.candidates} needs critics to rank plans: set algorithm.critics=separate "
            "in training, or algorithm.candidates=1"
        )


class PlanValues(nn.Module):
    """The values that the settings request; they learn from the data alone.

    Args:
        spec: the dataset's spec.
        settings: which values there are.
        returns_scale: the unit of returns.

    Attributes:
        advantage: gives agents z; None if they are conditioned on returns.
        critic: online and target Q_i; None if nothing ranks plans.
    """

    action_mask: Tensor

    def __init__(self, spec: DatasetSpec, settings: PlanValueSettings, returns_scale: float) -> None:
        super().__init__()
        by_advantage = settings.returns == "advantage"
        self.advantage = AdvantageCondition(spec, returns_scale) if by_advantage else None
        of_critics = CriticSettings(
            critics=settings.critics,
            critic=settings.critic,
            discount=settings.discount,
            value_learning=settings.value_learning,
            expectile=settings.expectile,
        )
        self.critic = build_team_critic(spec, of_critics)
        self.value_learning = None if self.critic is None else build_value_learning(spec, of_critics)
        self.codec = CODECS[spec.action_kind]
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)

    @property
    def ranking(self) -> AgentwiseCritic | None:
        """The averaged twins Q_i, if any."""
        return None if self.critic is None else self.critic.local

    def losses(self, batch: EpisodeBatch, normalizer: Normalizer, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by tag: those below `loss/` are minimised, the others are for curves. Updates the unit of advantages.

        Args:
            batch: windows of at least two rows.
            normalizer: the normaliser of the values' observations.
            generator: the source of all random numbers.
        """
        found: dict[str, Tensor] = {}
        if self.advantage is not None:
            values = self.advantage.values(batch, normalizer)
            self.advantage.update(batch, values)
            found |= self.advantage.losses(batch, values)
        if self.critic is not None and self.value_learning is not None:
            found |= self.value_learning.losses(self.critic, self._experience(batch, normalizer), generator)
        return found

    def groups(self, learning_rate: float) -> list[ParameterGroup]:
        """The parameter groups that the optimiser trains."""
        groups = []
        if self.advantage is not None:
            groups.append(ParameterGroup("advantage", (self.advantage,), learning_rate, None))
        if self.critic is not None and self.value_learning is not None:
            groups.append(ParameterGroup("critic", (self.critic.online, self.value_learning), learning_rate, None))
        return groups

    def after_step(self, decay: float) -> None:
        """Updates the target critics, which rank plans, as slowly as all other averages that act."""
        if self.critic is not None:
            self.critic.update_target(1 - decay)

    def _experience(self, batch: EpisodeBatch, normalizer: Normalizer) -> Experience:
        now, following = (Situation.of(batch, batch.history + ahead, normalizer) for ahead in (0, 1))
        did, next_data = (partial(self._did, batch, batch.history + ahead, now) for ahead in (0, 1))
        return Experience(batch, now, did(), following, next_data, next_data)

    def _did(self, batch: EpisodeBatch, row: int, like: Situation) -> Tensor:
        """The data's actions in a row, `[B, N, A]`."""
        return self.codec.encode(batch.actions[:, :, row], self.action_mask, like=like.condition)
