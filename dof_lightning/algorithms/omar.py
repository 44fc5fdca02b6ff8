"""OMAR: MACQL's critics, and actors that follow the best action which a search of the critics' landscape finds."""

from typing import Any

import torch
from torch import Tensor

from dof_lightning.algorithms.macql import MACQL, repeat
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.algorithms.parts.settings import check_ranges
from dof_lightning.spec import DatasetSpec


class OMAR(MACQL):
    """Actor: c ||pi_i - â_i||^2 - (1 - c) Q_i + 1e-3 ||pi_i||^2 (Pan et al., 2022, eq. 4 with its regularisation).

    â_i is the better of pi_i's action and the best of the last population of a search without gradients: actions are
    drawn from N(mu, sigma), which move to the mean and the spread of the population weighted by softmax(Q).

    Args:
        spec: the dataset's spec.
        search_weight: c, in [0, 1].
        search_iterations: populations that are drawn.
        search_samples: actions of a population.
        search_std: sigma of the first population, whose mean is 0.
        settings: see `MACQL`.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        search_weight: float,
        search_iterations: int,
        search_samples: int,
        search_std: float,
        **settings: Any,
    ) -> None:
        super().__init__(spec, **settings)
        check_ranges(
            search_weight=search_weight,
            search_iterations=search_iterations,
            search_samples=search_samples,
            search_std=search_std,
        )
        self.search_weight = search_weight
        self.search_iterations = search_iterations
        self.search_samples = search_samples
        self.search_std = search_std

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        found = self.search(now, actions.detach(), generator)
        following = squared_error(actions, found, self.action_mask, weight)
        value = self.mean_value(self.critic.frozen_values(now, actions), weight)
        loss = self.search_weight * following - (1 - self.search_weight) * value + self.shrinkage(actions, weight)
        return {"loss/actor": loss, "loss/search": following, "loss/q": -value}

    @torch.no_grad()
    def search(self, now: Situation, actions: Tensor, generator: torch.Generator) -> Tensor:
        """â `[B, N, A]`: worth at least as much as the actors' own actions `[B, N, A]`."""
        everywhere = repeat(now, self.search_samples)
        mean, std = torch.zeros_like(actions), torch.full_like(actions, self.search_std)
        shape = (self.search_samples, *actions.shape)
        own = self._rate(now, actions)
        population, values = actions[None], own[None]
        for _ in range(self.search_iterations):
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
