"""Deterministic actors with twin critics, as TD3 has them, an agent each: what most continuous baselines start from."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.actor_critic import ActorCritic, ActorCriticSettings
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.losses import squared_error, weighted_mean
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.settings import Fraction
from dof_lightning.spec import ActionKind

NOISE_LIMIT = 0.5  # of the target actions' smoothing noise (TD3, Fujimoto et al., 2018)


@dataclass(frozen=True, kw_only=True)
class TD3Settings(ActorCriticSettings):
    """What deterministic actors with twin critics have in common.

    Attributes:
        target_noise: standard deviation of the noise on target actions, in [0, 1].
    """

    target_noise: Fraction = 0.2

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """Without a future no action is rated in it."""
        return super().idle(action_kind) | ({"target_noise": "algorithm.discount=0"} if self.discount == 0 else {})


class DeterministicActorCritic(ActorCritic):
    """Every agent learns alone: a_i = tanh(mu_i(o_i)), twin Q_i(o_i, a_i) from its own reward (independent TD3).

    Subclasses say what keeps an agent near the data: `actor_loss`, and `critic_penalty` where there is one. Differences
    from TD3 (Fujimoto et al., 2018): actors move at every update instead of every second one, and the averaged actors
    both make the TD targets and act.
    """

    window = Window(history=0, horizon=1)
    settings: TD3Settings

    @abstractmethod
    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What the actors minimise, as `loss/actor`, and further scalars by tag; the critics get no gradient from it.

        Args:
            now: the current row.
            actions: `[B, N, A]`, the actors', with their gradient.
            data: `[B, N, A]`, the data's.
            weight: `[B, N]`, 0 where a row does not count.
            generator: draws what is random.
        """

    def critic_penalty(self, now: Situation, data: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor | None:
        """What is added to the squared TD error; None where nothing is. Arguments as `actor_loss`."""
        return None

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, following = (self.situation(batch, row) for row in (0, 1))
        data, weight = batch.actions[:, :, 0], batch.transition_mask[:, :, 0].float()
        losses = self.critic.losses(batch, now, data, following, self._target_actions(following, generator))
        loss = losses["loss/critic"]
        penalty = self.critic_penalty(now, data, weight, generator)
        if penalty is not None:
            losses["loss/penalty"] = penalty
            loss = loss + penalty
        losses |= self.actor_loss(now, self.act(self.actor, now), data, weight, generator)
        return {"loss": loss + losses["loss/actor"], **losses}

    def shrinkage(self, actions: Tensor, weight: Tensor) -> Tensor:
        """1e-3 E ||a||^2, which keeps actions off the ends of tanh (OMAR, Pan et al., 2022)."""
        return 1e-3 * squared_error(actions, torch.zeros_like(actions), self.action_mask, weight)

    def mean_value(self, values: Tensor, weight: Tensor) -> Tensor:
        """E[Q] of values `[B, N]`, in the rewards' own unit."""
        return weighted_mean(values, weight) / self.critic.reward_scale

    @torch.no_grad()
    def _target_actions(self, following: Situation, generator: torch.Generator) -> Tensor:
        """The averaged actors' actions, smoothed by clipped noise (TD3, eq. 14)."""
        actions = self.act(self.average_actor, following)
        noise = torch.randn(actions.shape, generator=generator, device=actions.device, dtype=actions.dtype)
        noise = (self.settings.target_noise * noise).clamp(-NOISE_LIMIT, NOISE_LIMIT)
        return (actions + noise).clamp(-1.0, 1.0) * self.action_mask
