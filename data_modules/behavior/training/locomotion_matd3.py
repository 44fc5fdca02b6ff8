"""Online MATD3 for robots: long episodes that may end early, larger networks, critics with normalised layers.

TD3 (Fujimoto et al. 2018) with centralised twin critics and decentralised actors (Ackermann et al. 2019), as in
`matd3`. Locomotion differs in three ways: after an early end nothing more is earned, episodes of a batch end at
different times, and layer normalisation in the critics (Nauman et al. 2024), with which they learn faster from few
updates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.behavior.training.matd3 import OnlineLearner, TeamSettings
from dof_lightning.envs.base import VectorEnv
from dof_lightning.networks.agentwise import AgentwiseLinear


@dataclass(frozen=True, kw_only=True)
class LocomotionSettings(TeamSettings):
    """Settings of `LocomotionMATD3`.

    Attributes:
        updates_per_transition: critic updates for each transition stored.
        warmup: transitions with uniform actions before the first update.
    """

    n_environments: int = 16
    updates_per_transition: float = 0.25
    batch_size: int = 256
    buffer_size: int = 1_000_000
    warmup: int = 8_000
    discount: float = 0.99
    target_update_rate: float = 0.01
    exploration_noise: float = 0.2
    reward_scale: float = 1.0
    actor_hidden: int = 128
    critic_hidden: int = 256


class TwinCritics(nn.Module):
    """Two centralised critics side by side, each with two normalised hidden layers.

    Args:
        joint_dim: number of all agents' observation and action entries.
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

    def forward(self, joint: Tensor) -> Tensor:
        """`[B, joint_dim]` to values `[2, B]`."""
        values: Tensor = self.layers(joint.expand(2, -1, -1))[..., 0]
        return values


class LocomotionMATD3(OnlineLearner):
    """A team of robots; arguments as in `OnlineLearner`."""

    stream = "locomotion"
    settings: LocomotionSettings

    def __init__(self, env: VectorEnv, settings: LocomotionSettings, seed: int) -> None:
        super().__init__(env, settings, seed)
        self.transitions = 0

    def build_critics(self, joint_dim: int) -> TwinCritics:
        """See the base class; their layers are normalised."""
        return TwinCritics(joint_dim, self.settings.critic_hidden)

    @staticmethod
    def values(critics: nn.Module, joint: Tensor) -> Tensor:
        """See the base class."""
        values: Tensor = critics(joint)
        return values.t()

    def train(self, total_updates: int) -> Iterator[int]:
        """Trains whole episodes; yields the number of updates done after each step of all environments."""
        while self.updates < total_updates:
            observations = self.env.reset(self.episode_seeds(self.transitions))
            running = torch.ones(len(observations), dtype=torch.bool)
            while running.any() and self.updates < total_updates:
                actions = self.explore(observations, uniform=self.transitions < self.settings.warmup)
                result = self.env.step(actions)
                following = result.observations
                self.buffer.add(
                    observations[running],
                    actions[running],
                    result.rewards[running].mean(1),
                    following[running],
                    result.terminated[running],
                )
                self.transitions += int(running.sum())
                observations, running = following, running & ~(result.terminated | result.truncated)
                due = int((self.transitions - self.settings.warmup) * self.settings.updates_per_transition)
                for _ in range(due - self.updates):
                    self.update()
                yield self.updates
