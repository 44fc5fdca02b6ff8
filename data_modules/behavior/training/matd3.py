"""Online MATD3 (Ackermann et al. 2019: TD3 with centralised twin critics), vectorised over environments and agents.

The team's reward is the mean over agents, which is the task return, so one pair of centralised critics serves all
agents and one backward pass improves all actors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_modules.behavior.actor_bank import ActorBank
from data_modules.behavior.training.replay_buffer import ReplayBuffer
from dof_lightning.envs.base import StepResult, VectorEnv
from dof_lightning.networks.agentwise import AgentwiseMLP
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.seeding import derive_seed, make_generator


@dataclass(frozen=True)
class MATD3Settings:
    """What the online trainer can be told.

    Attributes:
        n_environments: environments stepped together.
        updates_per_step: critic updates after each step of all environments.
        batch_size: transitions an update.
        buffer_size: transitions kept.
        warmup_steps: steps of all environments with uniform actions before the first update.
        discount: gamma.
        learning_rate: of Adam, for actors and critics.
        target_update_rate: tau of the target networks.
        exploration_noise: standard deviation of the Gaussian noise added to actions in [-1, 1].
        target_noise, target_noise_clip: smoothing noise of the target actions.
        actor_delay: critic updates for each actor update.
        reward_scale: rewards are multiplied by this for the critics.
        critic_hidden: width of the critics' two hidden layers.
    """

    n_environments: int = 64
    updates_per_step: int = 2
    batch_size: int = 512
    buffer_size: int = 640_000
    warmup_steps: int = 200
    discount: float = 0.9
    learning_rate: float = 1e-3
    target_update_rate: float = 0.005
    exploration_noise: float = 0.1
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    actor_delay: int = 2
    reward_scale: float = 0.1
    critic_hidden: int = 128


class TeamLearner:
    """N deterministic actors and twin centralised critics that learn from a replay buffer, whoever fills it.

    Args:
        n_agents: N; 1 makes it TD3.
        observation_dim: O.
        action_dim: A.
        settings: hyper-parameters.
        seed: of initial weights and noise.
    """

    def __init__(
        self, n_agents: int, observation_dim: int, action_dim: int, settings: MATD3Settings, seed: int
    ) -> None:
        self.settings, self.seed = settings, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "matd3-weights"))
            self.actors = ActorBank(n_agents, observation_dim, action_dim)
            joint_dim = n_agents * (observation_dim + action_dim)
            hidden = settings.critic_hidden
            self.critics = AgentwiseMLP(2, (joint_dim, hidden, hidden, 1), activation="relu", sharing="independent")
        self.target_actors, self.target_critics = ema_copy(self.actors), ema_copy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actors.parameters(), lr=settings.learning_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=settings.learning_rate, fused=True)
        self.buffer = ReplayBuffer(settings.buffer_size, n_agents, observation_dim, action_dim)
        self.generator = make_generator(seed, "matd3-noise")
        self.updates = 0

    @torch.no_grad()
    def explore(self, observations: Tensor, uniform: bool) -> Tensor:
        """Actions `[E, N, A]` with exploration noise on observations `[E, N, O]`, or uniform ones."""
        shape = self.actors(observations).shape
        if uniform:
            return torch.rand(shape, generator=self.generator) * 2 - 1
        noise = torch.randn(shape, generator=self.generator) * self.settings.exploration_noise
        return (self.actors(observations) + noise).clamp(-1, 1)

    def update_several(self) -> None:
        """What follows a step of all environments."""
        for _ in range(self.settings.updates_per_step):
            batch = self.buffer.sample(self.settings.batch_size, self.generator)
            self._update_critics(*batch)
            self.updates += 1
            if self.updates % self.settings.actor_delay == 0:
                self._update_actors(batch[0])
                ema_update(self.target_actors, self.actors, 1 - self.settings.target_update_rate)
                ema_update(self.target_critics, self.critics, 1 - self.settings.target_update_rate)

    def _update_critics(self, observations: Tensor, actions: Tensor, rewards: Tensor, following: Tensor) -> None:
        values = self._values(self.critics, observations, actions)
        target = self._target(rewards, following)
        loss = functional.mse_loss(values, target[:, None].expand_as(values))
        self.critic_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.critic_optimizer.step()

    @torch.no_grad()
    def _target(self, rewards: Tensor, following: Tensor) -> Tensor:
        settings = self.settings
        actions = self.target_actors(following)
        noise = torch.randn(actions.shape, generator=self.generator) * settings.target_noise
        actions = (actions + noise.clamp(-settings.target_noise_clip, settings.target_noise_clip)).clamp(-1, 1)
        values = self._values(self.target_critics, following, actions).amin(1)
        # An episode ends by its time limit only, so the value of the next state always counts.
        return settings.reward_scale * rewards + settings.discount * values

    def _update_actors(self, observations: Tensor) -> None:
        self.critics.requires_grad_(False)
        loss = -self._values(self.critics, observations, self.actors(observations))[:, 0].mean()
        self.actor_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.actor_optimizer.step()
        self.critics.requires_grad_(True)

    @staticmethod
    def _values(critics: nn.Module, observations: Tensor, actions: Tensor) -> Tensor:
        joint = torch.cat([observations, actions], -1).flatten(1)
        return critics(joint[:, None].expand(-1, 2, -1))[..., 0]


class MATD3(TeamLearner):
    """A team that learns online, by acting in environments.

    Args:
        env: where to learn.
        settings: hyper-parameters.
        seed: of initial weights, environments and noise.
    """

    def __init__(self, env: VectorEnv, settings: MATD3Settings, seed: int) -> None:
        self.env = env
        spec = env.spec
        super().__init__(spec.n_agents, spec.observation_dim, spec.action_dim, settings, seed)

    def train(self, total_updates: int) -> Iterator[int]:
        """Trains whole episodes; yields the number of updates done after each step of all environments."""
        step = 0
        while self.updates < total_updates:
            observations = self.env.reset(self._episode_seeds(step))
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

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around greedy episodes between two steps of training: nobody explores."""
        yield

    def _episode_seeds(self, step: int) -> Tensor:
        generator = make_generator(self.seed, "matd3-episodes", step)
        return torch.randint(2**62, (self.settings.n_environments,), generator=generator)
