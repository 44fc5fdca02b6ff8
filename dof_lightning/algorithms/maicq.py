"""MAICQ on continuous actions: values of the data's actions only, and actors cloned where these are worth most."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.actor_critic import ActorCritic, ActorCriticSettings
from dof_lightning.algorithms.parts.critics import MixedCritic, Situation, at_least_float32
from dof_lightning.algorithms.parts.losses import ImplicitConstraintSettings, batch_weights, weighted_mean
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.factorization.value import StateWeighted
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind

_LOG_STD = (-3.0, 0.5)  # least and largest; a spread that vanishes would make single rows infinitely likely


@dataclass(frozen=True, kw_only=True)
class MAICQSettings(ActorCriticSettings, ImplicitConstraintSettings):
    """Settings of `MAICQ`.

    Attributes:
        actor: mean and spread, called with the spec, `condition_dim` and `outputs`; its mean acts.
        value_mixer: k and b, called with the spec and `state_dim`.
    """

    value_mixer: Callable[..., StateWeighted] = StateWeighted

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """Without a future no TD target is weighed."""
        void = {"critic_temperature": "algorithm.discount=0"} if self.discount == 0 else {}
        return super().idle(action_kind) | void


class MAICQ(ActorCritic, made_by=MAICQSettings):
    """ICQ-MA (Yang et al., 2021) with Gaussian actors.

    Critic: (y - Q_tot(s, a))^2 with y = r + gamma (1 - d) w Q_tot(s', a'), a' the data's next action and w its batch
    weight: no action is ever rated that the data do not have. Q_tot = sum_i k_i(s) Q_i(o_i, a_i) + b(s). Actors:
    -E[k_i w_i log pi_i(a_i | o_i)], w_i the batch weight of A_i = Q_i(o_i, a_i) - Q_i(o_i, mu_i). The last step before
    a time limit has no next action in the data and teaches the critic nothing.
    """

    window = Window(history=0, horizon=2)
    settings: MAICQSettings

    def build_actor(self) -> AgentwiseActor:
        """Mean and spread of each entry of an action."""
        return self.settings.actor(self.spec, condition_dim=self.spec.observation_dim, outputs=2)

    def build_mixer(self) -> StateWeighted:
        """Of k and b, made from all observations side by side."""
        return self.settings.value_mixer(self.spec, state_dim=self.spec.n_agents * self.spec.observation_dim)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now = self.situation(batch, 0)
        critic = self.critic_loss(batch, now)
        actor = self.actor_loss(batch, now)
        return {"loss": critic + actor, "loss/critic": critic, "loss/actor": actor}

    def critic_loss(self, batch: EpisodeBatch, now: Situation) -> Tensor:
        """The twins' squared TD error; see the class."""
        there = batch.transition_mask.any(1)
        ends, goes_on = batch.terminated[:, :1], there[:, 1:]
        real = (there[:, :1] & (ends | goes_on)).float()
        with torch.no_grad(), torch.autocast(batch.rewards.device.type, enabled=False):
            following = at_least_float32(self.critic.target(self.situation(batch, 1), batch.actions[:, :, 1])).amin(0)
            weighted = (
                batch_weights(following, there[:, :1] & goes_on & ~ends, self.settings.critic_temperature) * following
            )
            rewards = batch.rewards[:, :, 0]
            rewards = rewards if now.alive is None else rewards * now.alive
            target = self.critic.reward_scale * rewards.mean(1, keepdim=True) + self.critic.discount * weighted
        values = at_least_float32(self.critic.online(now, batch.actions[:, :, 0]))
        return (real * (values - target).square()).sum(0).mean()

    def actor_loss(self, batch: EpisodeBatch, now: Situation) -> Tensor:
        """-E[N k_i w_i log pi_i(a_i)]; the critics get no gradient from it."""
        data, counts = batch.actions[:, :, 0], batch.transition_mask[:, :, 0]
        said = self.actor(now.condition).float()
        mean, log_std = torch.tanh(said[..., : data.shape[-1]]), said[..., data.shape[-1] :].clamp(*_LOG_STD)
        log_density = -0.5 * ((data - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        log_likelihood = (log_density * self.action_mask).sum(-1)
        with torch.no_grad():
            target = cast(MixedCritic, whole(self.critic.target))
            critic, mixer = target.critic, cast(StateWeighted, target.mixer)
            advantage = critic(now.condition, data).amin(0) - critic(now.condition, mean * self.action_mask).amin(0)
            condition = now.condition if now.alive is None else now.condition * now.alive[..., None]
            share = self.spec.n_agents * mixer.weights(condition.flatten(1))
            weight = share * batch_weights(advantage, counts, self.settings.actor_temperature)
        return -weighted_mean(log_likelihood, weight)
