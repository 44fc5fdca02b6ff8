"""MAICQ on continuous actions: values of the data's actions only, and actors that clone the most valuable ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.actor_critic import ActorCritic, ActorCriticSettings
from dof_lightning.algorithms.parts.critics import MixedCritic, Situation
from dof_lightning.algorithms.parts.extraction import BatchWeighted
from dof_lightning.algorithms.parts.losses import ImplicitConstraintSettings, at_least_float32, weighted_mean
from dof_lightning.algorithms.parts.value_learning import Implicit
from dof_lightning.batch import Window
from dof_lightning.factorization.value import StateWeighted
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind

_LOG_STD = (-3.0, 0.5)  # smallest and largest; a spread that vanishes would make single rows infinitely likely


@dataclass(frozen=True, kw_only=True)
class MAICQSettings(ActorCriticSettings, ImplicitConstraintSettings):
    """Settings of `MAICQ`.

    Attributes:
        actor: network of mean and spread, called with the spec, `condition_dim` and `outputs`; its mean acts.
        value_mixer: mixer with weights k and bias b, called with the spec and `state_dim`.
    """

    value_mixer: Callable[..., StateWeighted] = StateWeighted

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; if the future does not count, no TD target is weighted."""
        void = {"critic_temperature": "algorithm.discount=0"} if self.discount == 0 else {}
        return super().idle(action_kind) | void


class MAICQ(ActorCritic, made_by=MAICQSettings):
    """ICQ-MA (Yang et al., 2021) with Gaussian actors: -E[k_i w_i log pi_i(a_i | o_i)].

    Value learning: implicit, of Q_tot = sum_i k_i(s) Q_i(o_i, a_i) + b(s). Extraction: weighted cloning, w_i the batch
    weight of A_i = Q_i(o_i, a_i) - Q_i(o_i, mu_i).
    """

    window = Window(history=0, horizon=2)
    settings: MAICQSettings

    def build_actor(self) -> AgentwiseActor:
        """The network of the mean and spread of each entry of an action."""
        return self.settings.actor(self.spec, condition_dim=self.spec.observation_dim, outputs=2)

    def build_mixer(self) -> StateWeighted:
        """The mixer, whose k and b are made from all observations side by side."""
        return self.settings.value_mixer(self.spec, state_dim=self.spec.n_agents * self.spec.observation_dim)

    def build_value_learning(self) -> Implicit:
        """Value learning by the data's next actions."""
        return Implicit(self.settings.critic_temperature)

    def improvement(
        self, now: Situation, data: Tensor, counts: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """-E[N k_i w_i log pi_i(a_i)]; see the base class."""
        said = at_least_float32(self.actor(now.condition))
        mean, log_std = torch.tanh(said[..., : data.shape[-1]]), said[..., data.shape[-1] :].clamp(*_LOG_STD)
        log_density = -0.5 * ((data - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        log_likelihood = (log_density * self.action_mask).sum(-1)
        # In at least float32: the advantage is a small difference of values, and divided by a small temperature.
        with torch.no_grad(), torch.autocast(data.device.type, enabled=False):
            target = cast(MixedCritic, whole(self.critic.target))
            critic, mixer = target.critic, cast(StateWeighted, target.mixer)
            condition, mean = at_least_float32(now.condition), mean * self.action_mask
            advantage = critic(condition, at_least_float32(data)).amin(0) - critic(condition, mean).amin(0)
            condition = condition if now.alive is None else condition * now.alive[..., None]
            share = self.spec.n_agents * mixer.weights(condition.flatten(1))
            weight = share * BatchWeighted(self.settings.actor_temperature).weights(advantage, counts)
        return {"loss/actor": -weighted_mean(log_likelihood, weight)}
