"""MACQL: every agent's critics are pushed down where the data have no actions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.critics import Situation, at_least_float32
from dof_lightning.algorithms.parts.losses import weighted_mean
from dof_lightning.algorithms.parts.td3 import DeterministicActorCritic, TD3Settings
from dof_lightning.settings import Count, NonNegative
from dof_lightning.spec import ActionKind


@dataclass(frozen=True, kw_only=True)
class MACQLSettings(TD3Settings):
    """Settings of `MACQL`.

    Attributes:
        alpha: weight of the gap, for rewards in their own unit.
        samples: uniform actions of each row.
    """

    alpha: NonNegative = 1.0
    samples: Count = 10

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """Without a weight nothing is pushed down."""
        return super().idle(action_kind) | ({"samples": "algorithm.alpha=0"} if self.alpha == 0 else {})


class MACQL(DeterministicActorCritic, made_by=MACQLSettings):
    """Critic: TD error + alpha (log ∫ exp Q_i(o_i, u) du - Q_i(o_i, a_i)), actor: -Q_i + 1e-3 ||pi_i||^2.

    Conservative Q-learning (Kumar et al., 2020, eq. 4) an agent each, as in OMAR's comparison (Pan et al., 2022): the
    integral is estimated by `samples` uniform actions, of density 0.5^d. Rewards are scaled; alpha and the
    gap are told in their own unit, so that published values keep their meaning.
    """

    settings: MACQLSettings

    def critic_penalty(self, now: Situation, data: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
        """The weighted `gap`; see the base class."""
        return self.settings.alpha * self.critic.reward_scale * self.gap(now, data, weight, generator)

    def gap(self, now: Situation, data: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
        """E[log ∫ exp Q_i(o_i, u) du - Q_i(o_i, a_i)], summed over the twins; arguments as `actor_loss`.

        The exponents are in the rewards' own unit, as in the paper, and the gap in the critics' (times `reward_scale`):
        a softmax of scaled values would be nearly a mean, and push down what is high hardly more than what is low.
        """
        scale, samples = self.critic.reward_scale, self.settings.samples
        drawn = torch.rand((samples, *data.shape), generator=generator, device=data.device, dtype=data.dtype)
        anywhere = at_least_float32(self._values_of_each(now, (2 * drawn - 1) * self.action_mask))
        log_density = self.action_mask.sum(-1) * math.log(0.5)
        soft = scale * ((anywhere / scale - log_density).logsumexp(1) - math.log(samples))
        there = at_least_float32(self.critic.online(now, data))
        return weighted_mean((soft - there).sum(0), weight)

    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        value = self.mean_value(self.critic.frozen_values(now, actions), weight)
        return {"loss/actor": self.shrinkage(actions, weight) - value, "loss/q": -value}

    def _values_of_each(self, now: Situation, actions: Tensor) -> Tensor:
        """Twins `[2, M, B, N]` of M actions `[M, B, N, A]` in each row."""
        repeated = repeat(now, len(actions))
        values: Tensor = self.critic.online(repeated, actions.flatten(0, 1))
        return values.reshape(len(values), len(actions), *actions.shape[1:3])


def repeat(now: Situation, times: int) -> Situation:
    """The rows of a situation, all of them, `times` one after another: `[times * B, N, ...]`."""
    alive = None if now.alive is None else now.alive.repeat(times, 1)
    return Situation(condition=now.condition.repeat(times, 1, 1), alive=alive)
