"""OMAR: MACQL's critics, and actors that follow the best action which a search of the critics' landscape finds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.algorithms.macql import MACQL, MACQLSettings, repeat
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.settings import Count, Fraction, Positive
from dof_lightning.spec import ActionKind


@dataclass(frozen=True, kw_only=True)
class OMARSettings(MACQLSettings):
    """Settings of `OMAR`.

    Attributes:
        search_weight: c; 1 only follows the search, 0 only maximises Q.
        search_iterations: populations that are drawn.
        search_samples: actions of a population.
        search_std: sigma of the first population, whose mean is 0.
    """

    search_weight: Fraction = 1.0
    search_iterations: Count = 3
    search_samples: Count = 10
    search_std: Positive = 2.0

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """Without a weight the search is looked at, and nobody follows it."""
        found = super().idle(action_kind)
        if self.search_weight == 0:
            found |= dict.fromkeys(("search_iterations", "search_samples", "search_std"), "algorithm.search_weight=0")
        return found


class OMAR(MACQL, made_by=OMARSettings):
    """Actor: c ||pi_i - â_i||^2 - (1 - c) Q_i + 1e-3 ||pi_i||^2 (Pan et al., 2022, eq. 4 with its regularisation).

    â_i is the better of pi_i's action and the best of the last population of a search without gradients: actions are
    drawn from N(mu, sigma), which move to the mean and the spread of the population weighted by softmax(Q).
    """

    settings: OMARSettings

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        found = self.search(now, actions.detach(), generator)
        following = squared_error(actions, found, self.action_mask, weight)
        value = self.mean_value(self.critic.frozen_values(now, actions), weight)
        share = self.settings.search_weight
        loss = share * following - (1 - share) * value + self.shrinkage(actions, weight)
        return {"loss/actor": loss, "loss/search": following, "loss/q": -value}

    @torch.no_grad()
    def search(self, now: Situation, actions: Tensor, generator: torch.Generator) -> Tensor:
        """â `[B, N, A]`: worth at least as much as the actors' own actions `[B, N, A]`."""
        everywhere = repeat(now, self.settings.search_samples)
        mean, std = torch.zeros_like(actions), torch.full_like(actions, self.settings.search_std)
        shape = (self.settings.search_samples, *actions.shape)
        own = self._rate(now, actions)
        population, values = actions[None], own[None]
        for _ in range(self.settings.search_iterations):
            noise = torch.randn(shape, generator=generator, device=actions.device, dtype=actions.dtype)
            population = (mean + std * noise).clamp(-1.0, 1.0) * self.action_mask
            values = self._rate(everywhere, population.flatten(0, 1)).reshape(shape[:-1])
            share = (values / self.critic.reward_scale).softmax(0)[..., None]
            mean = (share * population).sum(0)
            std = (share * (population - mean).square()).sum(0).sqrt()
        candidates = torch.cat([actions[None], population])
        worth = torch.cat([own[None], values])
        best = worth.argmax(0)[None, ..., None].expand(1, *actions.shape)
        return candidates.gather(0, best)[0]

    def _rate(self, now: Situation, actions: Tensor) -> Tensor:
        """min(Q1, Q2) `[B, N]`."""
        return self.critic.frozen_values(now, actions)
