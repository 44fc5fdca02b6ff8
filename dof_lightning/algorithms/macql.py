"""MACQL: every agent's critics are pushed down at actions that the data do not contain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.extraction import Proposal, QGradient
from dof_lightning.algorithms.parts.td3 import DeterministicActorCritic, TD3Settings
from dof_lightning.algorithms.parts.value_learning import Conservative
from dof_lightning.settings import Count, NonNegative
from dof_lightning.spec import ActionKind


@dataclass(frozen=True, kw_only=True)
class MACQLSettings(TD3Settings):
    """Settings of `MACQL`.

    Attributes:
        alpha: weight of the gap, for rewards in their original unit.
        samples: number of uniformly drawn actions per row.
    """

    alpha: NonNegative = 1.0
    samples: Count = 10

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; without a weight nothing is pushed down."""
        return super().idle(action_kind) | ({"samples": "algorithm.alpha=0"} if self.alpha == 0 else {})


class MACQL(DeterministicActorCritic, made_by=MACQLSettings):
    """Actor: -Q_i + 1e-3 ||pi_i||^2, with Q_i in the rewards' original unit, so that published values apply.

    Value learning: conservative (Kumar et al., 2020, eq. 4) for each agent, as in OMAR's comparison (Pan et al., 2022);
    extraction: the gradient of Q.
    """

    settings: MACQLSettings

    def build_value_learning(self) -> Conservative:
        """Value learning by the TD error and the gap."""
        return Conservative(self.settings.alpha, self.settings.samples, CODECS["continuous"], self.action_mask)

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        climb = QGradient(1.0, unit=self.critic.reward_scale)
        climbing, of_q = climb.losses(self.judge(now), Proposal(actions, weight))
        return {"loss/actor": self.shrinkage(actions, weight) + climbing, **of_q}
