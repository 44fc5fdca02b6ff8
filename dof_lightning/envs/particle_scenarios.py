"""The three particle tasks: bodies, observations and rewards, as OMAR's datasets define them.

Facts from github.com/ling-pan/OMAR (multiagent-particle-envs as vendored there); the tasks are those of Lowe et al.,
"Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments" (NeurIPS 2017).

The episodes E come last in every tensor here, so that each operation runs along contiguous memory.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dof_lightning.spec import ReferenceScores

PUBLISHED_SCORES = "OMAR datasets' normalised scores as published with OMAR (Pan et al., ICML 2022) and DoF (ICLR 2025)"


@dataclass(frozen=True)
class Body:
    """A disc: an agent, or a landmark.

    Attributes:
        kind: `agent`, `predator`, `prey`, `target`, `obstacle`, `food` or `forest`.
        radius: in units of length.
        collides: whether it exchanges contact forces.
        force: newtons per unit of action; 0 for landmarks.
        max_speed: lengths per second, infinite where there is no limit.
    """

    kind: str
    radius: float
    collides: bool
    force: float = 0.0
    max_speed: float = float("inf")


@dataclass(frozen=True)
class Snapshot:
    """Where everything is in E episodes; P agents (learned ones first), L landmarks, Q = L + P - 1 things to see.

    Attributes:
        velocities, positions: `[P, 2, E]`.
        relative: `[P, Q, 2, E]`, landmarks and then the other agents, each in index order, minus one's own position.
        distances: `[P, Q, E]`, lengths of `relative`.
    """

    velocities: Tensor
    positions: Tensor
    relative: Tensor
    distances: Tensor


class Scenario(ABC):
    """One task. Observations and rewards are functions of a snapshot.

    Attributes:
        agents: P bodies that move, learned ones first.
        landmarks: L bodies that do not.
        n_learned: N.
        landmark_range: landmarks start uniformly in [-range, range]^2; agents in [-1, 1]^2.
        observation_dim: O of a learned agent.
        prey_observation_dim: O' of the prey, 0 where there is none.
        reward, observation_layout: what the recipe says about them.
        reference: published returns behind the normalised score.
    """

    agents: ClassVar[tuple[Body, ...]]
    landmarks: ClassVar[tuple[Body, ...]]
    n_learned: ClassVar[int] = 3
    landmark_range: ClassVar[float]
    observation_dim: ClassVar[int]
    prey_observation_dim: ClassVar[int] = 0
    reward: ClassVar[str]
    observation_layout: ClassVar[str]
    reference: ClassVar[ReferenceScores]

    @abstractmethod
    def observe(self, world: Snapshot) -> Tensor:
        """Observations of the learned agents, `[N, O, E]`."""

    @abstractmethod
    def rewards(self, world: Snapshot) -> Tensor:
        """Rewards of the learned agents, `[N, E]`."""

    def observe_prey(self, world: Snapshot) -> Tensor:
        """Observations of the prey, `[M, O', E]`; M = 0 where there is none."""
        return world.positions[self.n_learned :, : self.prey_observation_dim]

    def prey_rewards(self, world: Snapshot) -> Tensor:
        """Rewards of the prey, `[M, E]`."""
        return world.distances[self.n_learned :, 0]

    def recipe(self) -> dict[str, Any]:
        """What this task adds to the environment's recipe; JSON values only."""
        return {"reward": self.reward, "observation": self.observation_layout}


class Spread(Scenario):
    """Three agents cover three landmarks and keep out of each other's way."""

    agents = (Body("agent", 0.15, True, force=5.0),) * 3
    landmarks = (Body("target", 0.05, False),) * 3
    landmark_range = 1.0
    observation_dim = 18
    reward = "sum over landmarks of min(1 / distance to the nearest agent, 10) - 5 * own collisions"
    observation_layout = "velocity 2, position 2, landmarks 3x2, other agents 2x2, communication 2x2 (zeros)"
    reference = ReferenceScores(159.8, 516.8, PUBLISHED_SCORES)

    def observe(self, world: Snapshot) -> Tensor:
        """Own velocity and position, landmarks, others, silence: `[3, 18, E]`."""
        silence = torch.zeros_like(world.positions)
        return torch.cat((world.velocities, world.positions, world.relative.flatten(1, 2), silence, silence), dim=1)

    def rewards(self, world: Snapshot) -> Tensor:
        """Shared coverage minus 5 for each agent one touches: `[3, E]`."""
        to_landmarks, to_others = world.distances.split((3, 2), dim=1)
        coverage = to_landmarks.amin(dim=0).reciprocal().clamp(max=10.0).sum(dim=0)
        return coverage - 5.0 * (to_others < 2 * self.agents[0].radius).sum(dim=1)
