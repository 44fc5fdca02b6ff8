"""MA-TD3+BC: every agent maximises its Q and stays near the data's actions."""

from typing import Any

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.critics import Situation, negative_value
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.algorithms.parts.settings import check_ranges
from dof_lightning.algorithms.parts.td3 import DeterministicActorCritic
from dof_lightning.spec import DatasetSpec


class TD3BC(DeterministicActorCritic):
    """Actor: -alpha E[Q_i] / E|Q_i| + E ||pi_i - a_i||^2 (TD3+BC, Fujimoto & Gu, 2021, eq. 5; an agent each).

    Args:
        spec: the dataset's spec.
        alpha: weight of the normalised Q, at least 0.
        settings: see `DeterministicActorCritic`.
    """

    def __init__(self, spec: DatasetSpec, *, alpha: float, **settings: Any) -> None:
        super().__init__(spec, **settings)
        check_ranges(alpha=alpha)
        self.alpha = alpha

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        cloning = squared_error(actions, data, self.action_mask, weight)
        value = negative_value(self.critic.frozen_values(now, actions), weight)
        return {"loss/actor": self.alpha * value + cloning, "loss/cloning": cloning, "loss/q": value}
