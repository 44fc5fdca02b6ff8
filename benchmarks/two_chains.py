"""The yardstick of few steps: an update and a decision as in the released code of Li et al. (2025), with K=100 chains.

Written from its description (reference: Diffusion-QL's update, one agent after another): per agent one chain of the
averaged actor for the TD target, one chain of the actor for the Q term with its graph recorded. As released, the Q
term's gradient stops before the actor, so the second chain has no backward pass: the kinder yardstick.
"""

import torch
from torch import Tensor, nn

from benchmarks.agent_loop import AgentCritic, AgentDenoiser
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.batch import EpisodeBatch
from dof_lightning.diffusion.sampler import DDPM
from dof_lightning.diffusion.schedule import vp
from dof_lightning.networks.ema import ema_copy, ema_update

STEPS, CANDIDATES = 100, 50


class TwoChainAgent:
    """One agent's actor and critics, with separate optimisers and chains of K = `steps`.

    Sizes and weights are those of an algorithm's networks, which must have critics.
    """

    def __init__(self, algorithm: DoFPolicy, agent: int, steps: int = STEPS) -> None:
        if algorithm.critic is None or algorithm.critic.online.critic is None:
            raise ValueError("an algorithm without critics has no two-chain update")
        self._action_dim = algorithm.spec.action_dim
        self._schedule = vp(steps)
        self._sampler = DDPM(self._schedule)
        self.actor = AgentDenoiser(algorithm.denoiser, agent)  # type: ignore[arg-type]
        self.critic = AgentCritic(algorithm.critic.online.critic, agent)
        self._average, self._target = ema_copy(self.actor), ema_copy(self.critic)
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self._critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=3e-4)

    def update(self, observations: Tensor, actions: Tensor, rewards: Tensor, following: Tensor) -> None:
        """Updates critics, then actor, then moving averages; all arguments `[B, ...]`."""
        with torch.no_grad():
            next_actions = self._chain(self._average, following)
            target = rewards + 0.99 * self._target(following, next_actions).amin(0)
        self._step(self._critic_optimizer, (self.critic(observations, actions) - target).square().mean())
        k = torch.randint(1, self._schedule.steps + 1, (len(actions),))
        noise = torch.randn_like(actions)
        error = self.actor(self._schedule.add_noise(actions, noise, k), k, observations) - noise
        values = self.critic(observations, self._chain(self.actor, observations))[0]
        q_loss = -(values.mean() / values.abs().mean()).detach()
        self._step(self._actor_optimizer, error.square().mean() + q_loss)
        ema_update(self._average, self.actor, 0.995)
        ema_update(self._target, self.critic, 0.995)

    @torch.no_grad()
    def decide(self, observation: Tensor, candidates: int = CANDIDATES) -> Tensor:
        """Returns the best `[1, A]` of some candidates at one observation `[1, C]`."""
        repeated = observation.expand(candidates, -1)
        actions = self._chain(self._average, repeated)
        best = self._target(repeated, actions).amin(0).argmax()
        return actions[best][None]

    def _chain(self, actor: nn.Module, condition: Tensor) -> Tensor:
        noises = torch.randn(self._sampler.n_noises, len(condition), self._action_dim)
        return self._sampler.sample(lambda x, k: actor(x, k, condition), noises, lambda x: x.clamp(-1, 1))

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class TwoChains:
    """All agents of an algorithm, one after another, on the same batch in every update; see `TwoChainAgent`."""

    def __init__(self, algorithm: DoFPolicy, batch: EpisodeBatch, steps: int = STEPS) -> None:
        self.agents = [TwoChainAgent(algorithm, agent, steps) for agent in range(algorithm.spec.n_agents)]
        self._batch = batch

    def update(self) -> None:
        """Updates every agent once."""
        batch = self._batch
        for i, agent in enumerate(self.agents):
            now, then = batch.observations[:, i].unbind(1)
            agent.update(now, batch.actions[:, i, 0], batch.rewards[:, i, 0], then)

    def decide(self, candidates: int = CANDIDATES) -> Tensor:
        """Returns one decision of every agent `[1, N, A]`, at the batch's first observation."""
        observation = self._batch.observations[:1, :, 0]
        return torch.stack([a.decide(observation[:, i], candidates) for i, a in enumerate(self.agents)], dim=1)
