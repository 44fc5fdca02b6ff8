"""Deterministic actors with twin critics per agent, as in TD3: the basis of most continuous baselines."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.actor_critic import ActorCritic, ActorCriticSettings
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.extraction import Judge
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.batch import Window
from dof_lightning.settings import Fraction
from dof_lightning.spec import ActionKind

NOISE_LIMIT = 0.5  # bound of the target actions' smoothing noise (TD3, Fujimoto et al., 2018)


@dataclass(frozen=True, kw_only=True)
class TD3Settings(ActorCriticSettings):
    """Settings that deterministic actors with twin critics share.

    Attributes:
        target_noise: standard deviation of the noise on target actions, in [0, 1].
    """

    target_noise: Fraction = 0.2

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; if the future does not count, no action is rated in it."""
        return super().idle(action_kind) | ({"target_noise": "algorithm.discount=0"} if self.discount == 0 else {})


class DeterministicActorCritic(ActorCritic):
    """Every agent learns alone: a_i = tanh(mu_i(o_i)), twin Q_i(o_i, a_i) from its own reward (independent TD3).

    Subclasses define the actors' loss, `actor_loss`, and may choose another value learning. Differences from TD3
    (Fujimoto et al., 2018): actors move at every update instead of every second one, and the averaged actors both make
    the TD targets and act.
    """

    window = Window(history=0, horizon=1)
    settings: TD3Settings

    @abstractmethod
    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The loss of the actors, as `loss/actor`, and further scalars by tag; the critics get no gradient from it.

        Args:
            now: the current row.
            actions: `[B, N, A]`, the actors' actions, with their gradient.
            data: `[B, N, A]`, the data's.
            weight: `[B, N]`, 0 where a row does not count.
            generator: the source of all random numbers.
        """

    def improvement(
        self, now: Situation, data: Tensor, counts: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the base class."""
        return self.actor_loss(now, self.act(self.actor, now), data, counts.float(), generator)

    def judge(self, now: Situation) -> Judge:
        """The frozen critics' values of actions `[B, N, A]` in a row."""
        return partial(self.critic.frozen_values, now)

    def shrinkage(self, actions: Tensor, weight: Tensor) -> Tensor:
        """1e-3 E ||a||^2, which keeps actions off the ends of tanh (OMAR, Pan et al., 2022)."""
        return 1e-3 * squared_error(actions, torch.zeros_like(actions), self.action_mask, weight)

    @torch.no_grad()
    def target_actions(self, following: Situation, generator: torch.Generator) -> Tensor:
        """The averaged actors' actions, smoothed by clipped noise (TD3, eq. 14)."""
        actions = self.act(self.average_actor, following)
        noise = torch.randn(actions.shape, generator=generator, device=actions.device, dtype=actions.dtype)
        noise = (self.settings.target_noise * noise).clamp(-NOISE_LIMIT, NOISE_LIMIT)
        return (actions + noise).clamp(-1.0, 1.0) * self.action_mask
