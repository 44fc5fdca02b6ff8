"""Online MATD3 (Ackermann et al. 2019: TD3 with centralised twin critics), vectorised over environments and agents.

The team's reward is the mean over agents, which is the task return, so one pair of centralised critics serves all
agents and one backward pass improves all actors. The loss differs from `dof_lightning.algorithms.parts.td3`, whose
agents have critics of their own, see masked rows of a fixed dataset, and are optimised by a trainer.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from data_modules.behavior.actor_bank import ActorBank
from data_modules.behavior.snapshots import Snapshot
from dof_lightning.envs.base import StepResult, VectorEnv
from dof_lightning.networks.agentwise import AgentwiseMLP
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.seeding import derive_seed, make_generator


@dataclass(frozen=True, kw_only=True)
class TeamSettings:
    """Settings of every team that learns online.

    Attributes:
        n_environments: environments stepped together.
        batch_size: transitions per update.
        buffer_size: number of transitions that are kept.
        discount: gamma.
        learning_rate: Adam's learning rate for actors and critics.
        target_update_rate: tau of the target networks.
        exploration_noise: standard deviation of the Gaussian noise added to actions in [-1, 1].
        target_noise, target_noise_clip: smoothing noise of the target actions.
        actor_delay: critic updates for each actor update.
        reward_scale: rewards are multiplied by this for the critics.
        actor_hidden, critic_hidden: width of the two hidden layers.
    """

    n_environments: int = 64
    batch_size: int = 512
    buffer_size: int = 640_000
    discount: float = 0.9
    learning_rate: float = 1e-3
    target_update_rate: float = 0.005
    exploration_noise: float = 0.1
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    actor_delay: int = 2
    reward_scale: float = 0.1
    actor_hidden: int = 64
    critic_hidden: int = 128


@dataclass(frozen=True, kw_only=True)
class MATD3Settings(TeamSettings):
    """Settings of `MATD3`.

    Attributes:
        updates_per_step: critic updates after each step of all environments.
        warmup_steps: steps of all environments with uniform actions before the first update.
    """

    updates_per_step: int = 2
    warmup_steps: int = 200


class ReplayBuffer:
    """The latest `capacity` transitions of E environments, sampled uniformly.

    Args:
        capacity: number of transitions that are kept; at least one per environment.
        n_agents: N.
        observation_dim: O.
        action_dim: A.
    """

    def __init__(self, capacity: int, n_agents: int, observation_dim: int, action_dim: int) -> None:
        self.observations = torch.zeros(capacity, n_agents, observation_dim)
        self.actions = torch.zeros(capacity, n_agents, action_dim)
        self.rewards = torch.zeros(capacity)
        self.next_observations = torch.zeros(capacity, n_agents, observation_dim)
        self.terminated = torch.zeros(capacity, dtype=torch.bool)
        self.capacity = capacity
        self.size = 0
        self._cursor = 0

    def add(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_observations: Tensor,
        terminated: Tensor | None = None,
    ) -> None:
        """Stores one step of every environment, in place of the oldest ones if the buffer is full.

        Args:
            observations: `[E, N, O]`.
            actions: `[E, N, A]`.
            rewards: `[E]`, the team's rewards.
            next_observations: `[E, N, O]`.
            terminated: `[E]` bool, episodes that really ended; None if episodes end by their time limit only.
        """
        count = len(observations)
        rows = (self._cursor + torch.arange(count)) % self.capacity
        self.observations[rows] = observations
        self.actions[rows] = actions
        self.rewards[rows] = rewards
        self.next_observations[rows] = next_observations
        if terminated is not None:
            self.terminated[rows] = terminated
        self.size = min(max(self.size, self._cursor + count), self.capacity)
        self._cursor = (self._cursor + count) % self.capacity

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Observations `[B, N, O]`, actions `[B, N, A]`, rewards `[B]`, next observations, and real ends `[B]` bool."""
        rows = torch.randint(self.size, (batch_size,), generator=generator)
        return (
            self.observations[rows],
            self.actions[rows],
            self.rewards[rows],
            self.next_observations[rows],
            self.terminated[rows],
        )


class TeamLearner:
    """N deterministic actors and twin centralised critics that learn from a replay buffer.

    Args:
        n_agents: N; 1 makes it TD3.
        observation_dim: O.
        action_dim: A.
        settings: hyper-parameters.
        seed: seed of initial weights and noise.

    Attributes:
        stream: name of the streams of random numbers.
    """

    stream: ClassVar[str] = "matd3"

    def __init__(self, n_agents: int, observation_dim: int, action_dim: int, settings: TeamSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        joint_dim = n_agents * (observation_dim + action_dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, f"{self.stream}-weights"))
            self.actors = ActorBank(n_agents, observation_dim, action_dim, settings.actor_hidden)
            self.critics = self.build_critics(joint_dim)
        self.target_actors, self.target_critics = ema_copy(self.actors), ema_copy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actors.parameters(), lr=settings.learning_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=settings.learning_rate, fused=True)
        self.buffer = ReplayBuffer(settings.buffer_size, n_agents, observation_dim, action_dim)
        self.generator = make_generator(seed, f"{self.stream}-noise")
        self.updates = 0

    def build_critics(self, joint_dim: int) -> nn.Module:
        """Builds both critics; they read all agents' observations and actions side by side."""
        hidden = self.settings.critic_hidden
        return AgentwiseMLP(2, (joint_dim, hidden, hidden, 1), activation="relu", sharing="independent")

    @staticmethod
    def values(critics: nn.Module, joint: Tensor) -> Tensor:
        """Both critics' values `[B, 2]` of `[B, joint_dim]`."""
        return critics(joint[:, None].expand(-1, 2, -1))[..., 0]

    @torch.no_grad()
    def explore(self, observations: Tensor, uniform: bool) -> Tensor:
        """Actions `[E, N, A]` with exploration noise on observations `[E, N, O]`, or uniform ones."""
        greedy: Tensor = self.actors(observations)
        if uniform:
            return torch.rand(greedy.shape, generator=self.generator) * 2 - 1
        noise = torch.randn(greedy.shape, generator=self.generator) * self.settings.exploration_noise
        return (greedy + noise).clamp(-1, 1)

    def update(self) -> None:
        """Updates the critics, and every `actor_delay` times the actors."""
        observations, actions, rewards, following, terminated = self.buffer.sample(
            self.settings.batch_size, self.generator
        )
        self._update_critics(observations, actions, self._target(rewards, following, terminated))
        self.updates += 1
        if self.updates % self.settings.actor_delay == 0:
            self._update_actors(observations)
            ema_update(self.target_actors, self.actors, 1 - self.settings.target_update_rate)
            ema_update(self.target_critics, self.critics, 1 - self.settings.target_update_rate)

    def _update_critics(self, observations: Tensor, actions: Tensor, target: Tensor) -> None:
        values = self._values(self.critics, observations, actions)
        loss = functional.mse_loss(values, target[:, None].expand_as(values))
        self.critic_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.critic_optimizer.step()

    @torch.no_grad()
    def _target(self, rewards: Tensor, following: Tensor, terminated: Tensor) -> Tensor:
        """TD targets; at a time limit, the value of the state after it counts."""
        settings = self.settings
        actions = self.target_actors(following)
        noise = torch.randn(actions.shape, generator=self.generator) * settings.target_noise
        actions = (actions + noise.clamp(-settings.target_noise_clip, settings.target_noise_clip)).clamp(-1, 1)
        values = self._values(self.target_critics, following, actions).amin(1)
        return settings.reward_scale * rewards + settings.discount * values * ~terminated

    def _update_actors(self, observations: Tensor) -> None:
        self.critics.requires_grad_(False)
        loss = -self._values(self.critics, observations, self.actors(observations))[:, 0].mean()
        self.actor_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.actor_optimizer.step()
        self.critics.requires_grad_(True)

    def _values(self, critics: nn.Module, observations: Tensor, actions: Tensor) -> Tensor:
        return self.values(critics, torch.cat([observations, actions], -1).flatten(1))


class OnlineLearner(TeamLearner):
    """A team that learns by acting in environments with continuous actions; they are seeded by the team's seed."""

    def __init__(self, env: VectorEnv, settings: TeamSettings, seed: int) -> None:
        self.env = env
        spec = env.spec
        super().__init__(spec.n_agents, spec.observation_dim, spec.action_dim, settings, seed)

    def episode_seeds(self, begun: int) -> Tensor:
        """The seeds of the episodes that begin after a number of steps or transitions: `[E]` int64."""
        generator = make_generator(self.seed, f"{self.stream}-episodes", begun)
        return torch.randint(2**62, (self.settings.n_environments,), generator=generator)


class MATD3(OnlineLearner):
    """A team whose episodes all end together; arguments as in `OnlineLearner`."""

    settings: MATD3Settings

    def train(self, total_updates: int) -> Iterator[int]:
        """Trains whole episodes; yields the number of updates done after each step of all environments."""
        step = 0
        while self.updates < total_updates:
            observations = self.env.reset(self.episode_seeds(step))
            ended = False
            while not ended:
                actions = self.explore(observations, uniform=step < self.settings.warmup_steps)
                result = self.env.step(actions)
                self.remember(observations, actions, result)
                observations, step = result.observations, step + 1
                ended = bool((result.terminated | result.truncated).all())
                if step >= self.settings.warmup_steps:
                    self.update_several()
                    yield self.updates

    def remember(self, observations: Tensor, actions: Tensor, result: StepResult) -> None:
        """Stores one step of all environments: observations `[E, N, O]` before it, actions `[E, N, A]`."""
        self.buffer.add(observations, actions, result.rewards.mean(1), result.observations)

    def update_several(self) -> None:
        """Makes the updates that follow a step of all environments."""
        for _ in range(self.settings.updates_per_step):
            self.update()

    def measured(self) -> AbstractContextManager[None]:
        """Context of greedy episodes between two steps of training, without exploration."""
        return nullcontext()


def watch(
    bars: Progress,
    title: str,
    training: Iterator[int],
    updates: int,
    every: int,
    measure: Callable[[], Snapshot],
    remark: str = "",
) -> list[Snapshot]:
    """Trains with a progress bar; returns the snapshots, measured once every `evaluate_every` updates."""
    history: list[Snapshot] = []
    bar = bars.add_task(title, total=updates)
    for done in training:
        if done // every > len(history):
            latest = measure()
            history.append(latest)
            line = f"{done:>8} updates: return {latest.return_mean:.1f} ± {latest.return_std:.1f}{remark}"
            bars.console.print(line)
        bars.update(bar, completed=done)
    return history
