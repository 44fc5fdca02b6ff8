"""Online MATD3 for robots: long episodes that may end early, larger networks, critics with normalised layers.

TD3 (Fujimoto et al. 2018) with centralised twin critics and decentralised actors (Ackermann et al. 2019), as in
`matd3`. What locomotion adds: an early end is worth nothing afterwards, episodes of a batch end at different times, and
layer normalisation in the critics (Nauman et al. 2024), which learn faster from few updates with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_modules.behavior.actor_bank import ActorBank
from data_modules.behavior.training.replay_buffer import ReplayBuffer
from dof_lightning.envs.base import StepResult, VectorEnv
from dof_lightning.networks.agentwise import AgentwiseLinear
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.seeding import derive_seed, make_generator


@dataclass(frozen=True)
class LocomotionSettings:
    """What the online trainer can be told.

    Attributes:
        n_environments: environments stepped together.
        updates_per_transition: critic updates for each transition stored.
        batch_size: transitions an update.
        buffer_size: transitions kept; whole batches of environments.
        warmup: transitions with uniform actions before the first update.
        discount: gamma.
        learning_rate: of Adam, for actors and critics.
        target_update_rate: tau of the target networks.
        exploration_noise: standard deviation of the Gaussian noise added to actions in [-1, 1].
        target_noise, target_noise_clip: smoothing noise of the target actions.
        actor_delay: critic updates for each actor update.
        actor_hidden, critic_hidden: width of the two hidden layers.
    """

    n_environments: int = 16
    updates_per_transition: float = 0.25
    batch_size: int = 256
    buffer_size: int = 1_000_000
    warmup: int = 8_000
    discount: float = 0.99
    learning_rate: float = 1e-3
    target_update_rate: float = 0.01
    exploration_noise: float = 0.2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    actor_delay: int = 2
    actor_hidden: int = 128
    critic_hidden: int = 256


class TwinCritics(nn.Module):
    """Two centralised critics side by side, each with two normalised hidden layers.

    Args:
        joint_dim: of all agents' observations and actions.
        hidden: width of the hidden layers.
    """

    def __init__(self, joint_dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            AgentwiseLinear(2, joint_dim, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            AgentwiseLinear(2, hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            AgentwiseLinear(2, hidden, 1),
        )

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """`[B, N, O]` and `[B, N, A]` to values `[2, B]`."""
        joint = torch.cat([observations, actions], -1).flatten(1)
        values: Tensor = self.layers(joint.expand(2, -1, -1))[..., 0]
        return values


class LocomotionMATD3:
    """N deterministic actors and twin centralised critics, trained online.

    Args:
        env: where to learn; continuous actions.
        settings: hyper-parameters.
        seed: of initial weights, environments and noise.
    """

    def __init__(self, env: VectorEnv, settings: LocomotionSettings, seed: int) -> None:
        self.env, self.settings, self.seed = env, settings, seed
        spec = env.spec
        n_agents, observation_dim, action_dim = spec.n_agents, spec.observation_dim, spec.action_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "locomotion-weights"))
            self.actors = ActorBank(n_agents, observation_dim, action_dim, settings.actor_hidden)
            self.critics = TwinCritics(n_agents * (observation_dim + action_dim), settings.critic_hidden)
        self.target_actors, self.target_critics = ema_copy(self.actors), ema_copy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actors.parameters(), lr=settings.learning_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=settings.learning_rate, fused=True)
        self.buffer = ReplayBuffer(settings.buffer_size, n_agents, observation_dim, action_dim)
        self.generator = make_generator(seed, "locomotion-noise")
        self.updates = 0
        self.transitions = 0

    def train(self, total_updates: int) -> Iterator[int]:
        """Trains whole episodes; yields the number of updates done after each step of all environments."""
        while self.updates < total_updates:
            observations = self.env.reset(self._episode_seeds())
            running = torch.ones(len(observations), dtype=torch.bool)
            while running.any() and self.updates < total_updates:
                actions = self._explore(observations)
                result = self.env.step(actions)
                self._store(observations, actions, result, running)
                observations, running = result.observations, running & ~(result.terminated | result.truncated)
                due = int((self.transitions - self.settings.warmup) * self.settings.updates_per_transition)
                for _ in range(due - self.updates):
                    self._update()
                yield self.updates

    def _episode_seeds(self) -> Tensor:
        generator = make_generator(self.seed, "locomotion-episodes", self.transitions)
        return torch.randint(2**62, (self.settings.n_environments,), generator=generator)

    @torch.no_grad()
    def _explore(self, observations: Tensor) -> Tensor:
        shape = (*observations.shape[:2], self.env.spec.action_dim)
        if self.transitions < self.settings.warmup:
            return torch.rand(shape, generator=self.generator) * 2 - 1
        noise = torch.randn(shape, generator=self.generator) * self.settings.exploration_noise
        return (self.actors(observations) + noise).clamp(-1, 1)

    def _store(self, observations: Tensor, actions: Tensor, result: StepResult, running: Tensor) -> None:
        self.buffer.add(
            observations[running],
            actions[running],
            result.rewards[running].mean(1),
            result.observations[running],
            result.terminated[running],
        )
        self.transitions += int(running.sum())

    def _update(self) -> None:
        observations, actions, rewards, following, terminated = self.buffer.sample_with_ends(
            self.settings.batch_size, self.generator
        )
        target = self._target(rewards, following, terminated)
        loss = functional.mse_loss(self.critics(observations, actions), target.expand(2, -1))
        self.critic_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.critic_optimizer.step()
        self.updates += 1
        if self.updates % self.settings.actor_delay == 0:
            self._update_actors(observations)
            ema_update(self.target_actors, self.actors, 1 - self.settings.target_update_rate)
            ema_update(self.target_critics, self.critics, 1 - self.settings.target_update_rate)

    @torch.no_grad()
    def _target(self, rewards: Tensor, following: Tensor, terminated: Tensor) -> Tensor:
        """A time limit is no end: the value of the state after it counts."""
        settings = self.settings
        actions = self.target_actors(following)
        noise = torch.randn(actions.shape, generator=self.generator) * settings.target_noise
        actions = (actions + noise.clamp(-settings.target_noise_clip, settings.target_noise_clip)).clamp(-1, 1)
        values: Tensor = self.target_critics(following, actions).amin(0)
        return rewards + settings.discount * values * ~terminated

    def _update_actors(self, observations: Tensor) -> None:
        self.critics.requires_grad_(False)
        loss = -self.critics(observations, self.actors(observations))[0].mean()
        self.actor_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.actor_optimizer.step()
        self.critics.requires_grad_(True)
