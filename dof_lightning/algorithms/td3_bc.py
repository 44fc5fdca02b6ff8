"""MA-TD3+BC: every agent maximises its Q and stays near the data's actions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.extraction import Proposal, QGradient
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.algorithms.parts.td3 import DeterministicActorCritic, TD3Settings
from dof_lightning.settings import NonNegative


@dataclass(frozen=True, kw_only=True)
class TD3BCSettings(TD3Settings):
    """Settings of `TD3BC`.

    Attributes:
        alpha: weight of the normalised Q.
    """

    alpha: NonNegative = 2.5


class TD3BC(DeterministicActorCritic, made_by=TD3BCSettings):
    """Actor: -alpha E[Q_i] / E|Q_i| + E ||pi_i - a_i||^2 (TD3+BC, Fujimoto & Gu, 2021, eq. 5; of each agent).

    Value learning: TD; extraction: the gradient of Q, with cloning beside.
    """

    settings: TD3BCSettings

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        cloning = squared_error(actions, data, self.action_mask, weight)
        climbing, of_q = QGradient(self.settings.alpha).losses(self.judge(now), Proposal(actions, weight))
        return {"loss/actor": climbing + cloning, "loss/cloning": cloning, **of_q}
