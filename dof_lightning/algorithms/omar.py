"""OMAR: MACQL's critics, and actors that follow the best action found by a search on the critics' landscape."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.algorithms.macql import MACQL, MACQLSettings
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.extraction import BestOf, Proposal, QGradient
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.settings import Count, Fraction, Positive
from dof_lightning.spec import ActionKind


@dataclass(frozen=True, kw_only=True)
class OMARSettings(MACQLSettings):
    """Settings of `OMAR`.

    Attributes:
        search_weight: c; 1 only follows the search, 0 only maximises Q.
        search_iterations: number of populations that are drawn.
        search_samples: number of actions per population.
        search_std: sigma of the first population, whose mean is 0.
    """

    search_weight: Fraction = 1.0
    search_iterations: Count = 3
    search_samples: Count = 10
    search_std: Positive = 2.0

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; without a weight nothing follows the search."""
        found = super().idle(action_kind)
        if self.search_weight == 0:
            found |= dict.fromkeys(("search_iterations", "search_samples", "search_std"), "algorithm.search_weight=0")
        return found


class OMAR(MACQL, made_by=OMARSettings):
    """Actor: c ||pi_i - â_i||^2 - (1 - c) Q_i + 1e-3 ||pi_i||^2 (Pan et al., 2022, eq. 4 with its regularisation).

    Value learning: MACQL's; extraction: the best of a search, â_i, together with the gradient of Q.
    """

    settings: OMARSettings

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        found = self.search(now, actions.detach(), generator)
        following = squared_error(actions, found, self.action_mask, weight)
        share = self.settings.search_weight
        climb = QGradient(1 - share, unit=self.critic.reward_scale)
        climbing, of_q = climb.losses(self.judge(now), Proposal(actions, weight))
        loss = share * following + climbing + self.shrinkage(actions, weight)
        return {"loss/actor": loss, "loss/search": following, **of_q}

    def search(self, now: Situation, actions: Tensor, generator: torch.Generator) -> Tensor:
        """â `[B, N, A]`: worth at least as much as the actors' own actions `[B, N, A]`."""
        settings = self.settings
        searching = BestOf(settings.search_iterations, settings.search_samples, settings.search_std)
        everywhere = self.judge(now.repeat(settings.search_samples))
        scale = self.critic.reward_scale
        return searching.find(self.judge(now), everywhere, actions, self.action_mask, scale, generator)
