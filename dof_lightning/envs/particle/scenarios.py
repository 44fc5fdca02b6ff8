"""The three particle tasks: bodies, observations and rewards, as OMAR's datasets define them.

Facts from github.com/ling-pan/OMAR (multiagent-particle-envs as vendored there); the tasks are those of Lowe et al.,
"Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments" (NeurIPS 2017).

The episodes E come last in every tensor here, so that each operation runs along contiguous memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.errors import UserError
from dof_lightning.spec import ReferenceScores

N_LEARNED = 3

PUBLISHED_SCORES = "OMAR datasets' normalised scores as published with OMAR (Pan et al., ICML 2022) and DoF (ICLR 2025)"


@dataclass(frozen=True)
class Body:
    """A disc: an agent, or a landmark.

    Attributes:
        kind: `agent`, `predator`, `prey`, `target`, `obstacle`, `food` or `forest`.
        radius: in units of length.
        collides: whether it exchanges contact forces.
        force: newtons per unit of action; 0 for landmarks.
        max_speed: lengths per second, infinite if there is no limit.
    """

    kind: str
    radius: float
    collides: bool
    force: float = 0.0
    max_speed: float = float("inf")


@dataclass(frozen=True)
class Snapshot:
    """Positions and velocities in E episodes; P agents (learned first), L landmarks, Q = L + P - 1 visible bodies.

    Attributes:
        velocities, positions: `[P, 2, E]`.
        relative: `[P, Q, 2, E]`, landmarks and then the other agents, each in index order, minus one's own position.
        distances: `[P, Q, E]`, lengths of `relative`.
        contact: `[P, Q, 1]`, the distances below which two bodies touch; minus infinity for bodies that cannot be
            touched.
    """

    velocities: Tensor
    positions: Tensor
    relative: Tensor
    distances: Tensor
    contact: Tensor


class Scenario(ABC):
    """One task. Observations and rewards are functions of a snapshot.

    Attributes:
        task: the task's name.
        agents: P bodies that move: the N = 3 learned ones, then the prey if there is one.
        landmarks: L bodies that do not move.
        landmark_range: landmarks start uniformly in [-range, range]^2; agents in [-1, 1]^2.
        observation_dim: O of a learned agent.
        prey_observation_dim: O' of the prey, 0 if there is none.
        predators: the slice of a prey's observation with the predators' relative positions.
        obstacles: the slice of a prey's observation with the obstacles' relative positions.
        reward: the recipe's name of the reward.
        observation_layout: the recipe's name of the observations' layout.
        reference: published returns behind the normalised score; None if none are published.
        variant: differences from the published task, one word each; parts of the environment's name.
        sees_all: whether the state can be computed from an agent's observation.
    """

    task: ClassVar[str]
    agents: tuple[Body, ...]
    landmarks: ClassVar[tuple[Body, ...]]
    landmark_range: ClassVar[float]
    observation_dim: ClassVar[int]
    prey_observation_dim: ClassVar[int] = 0
    predators: ClassVar[slice] = slice(0, 0)
    obstacles: ClassVar[slice] = slice(0, 0)
    reward: ClassVar[str]
    observation_layout: str
    reference: ReferenceScores | None
    variant: tuple[str, ...] = ()
    sees_all: bool = True

    @property
    def has_prey(self) -> bool:
        """Whether the last agent is a prey, which is not learned."""
        return self.prey_observation_dim > 0

    @property
    def learned(self) -> tuple[Body, ...]:
        """The N learned agents."""
        return self.agents[:N_LEARNED]

    @abstractmethod
    def observe(self, world: Snapshot) -> Tensor:
        """Computes the observations of the learned agents, `[N, O, E]`."""

    @abstractmethod
    def rewards(self, world: Snapshot) -> Tensor:
        """Computes the rewards of the learned agents, `[N, E]`."""


class PreyScenario(Scenario):
    """A task with one prey, the last agent.

    Attributes:
        hit_reward: the predators' reward per predator that touches the prey.
    """

    landmark_range = 0.9
    hit_reward: ClassVar[float]

    def observe(self, world: Snapshot) -> Tensor:
        """Own velocity and position, landmarks, others, the prey's velocity, and `_marks`: `[3, O, E]`."""
        return self._see(world, slice(0, N_LEARNED), world.velocities[N_LEARNED:].expand(N_LEARNED, -1, -1))

    def rewards(self, world: Snapshot) -> Tensor:
        """The predators' rewards, the same for all: `[3, E]`."""
        distance, touching = self._chase(world)
        return (self.hit_reward * touching).sub_(distance, alpha=0.1).expand(N_LEARNED, -1)

    def observe_prey(self, world: Snapshot) -> Tensor:
        """The prey's observations: own velocity and position, landmarks, predators, and `_marks`: `[1, O', E]`."""
        return self._see(world, slice(N_LEARNED, None))

    def _see(self, world: Snapshot, own: slice, *more: Tensor) -> Tensor:
        seen = world.relative[own].flatten(1, 2)
        return torch.cat((world.velocities[own], world.positions[own], seen, *more, *self._marks(world, own)), dim=1)

    def _marks(self, world: Snapshot, own: slice) -> tuple[Tensor, ...]:
        """Entries at the end of the agents' observations, `[P', M, E]` each."""
        return ()

    @abstractmethod
    def prey_rewards(self, world: Snapshot) -> Tensor:
        """The prey's own reward, `[1, E]`."""

    def _chase(self, world: Snapshot) -> tuple[Tensor, Tensor]:
        """Sum of the predators' distances to the prey, and the number that touch it: two `[E]`."""
        distances = world.distances[N_LEARNED, len(self.landmarks) :]
        touching = distances < self.agents[0].radius + self.agents[N_LEARNED].radius
        return distances.sum(dim=0), touching.sum(dim=0)


PREDATORS = (Body("predator", 0.075, True, force=9.0, max_speed=1.0),) * N_LEARNED


class Spread(Scenario):
    """Three agents cover three landmarks and avoid each other.

    Args:
        team: radius (lengths) and force (newtons per unit of action) of each agent; None means 0.15 and 5 for all.
        sight: distance between centres within which an agent sees landmarks and teammates; None means unlimited.

    Raises:
        UserError: `team` is not three pairs of positive numbers, or `sight` is not positive.
    """

    task = "spread"
    agents = (Body("agent", 0.15, True, force=5.0),) * N_LEARNED
    landmarks = (Body("target", 0.05, False),) * 3
    landmark_range = 1.0
    observation_dim = 18
    reward = "sum over landmarks of min(1 / distance to the nearest agent, 10) - 5 * own collisions"
    observation_layout = "velocity 2, position 2, landmarks 3x2, other agents 2x2, communication 2x2 (zeros)"
    reference: ReferenceScores | None = ReferenceScores(159.8, 516.8, PUBLISHED_SCORES)

    def __init__(self, team: Sequence[Sequence[float]] | None = None, sight: float | None = None) -> None:
        if team is not None:
            if len(team) != N_LEARNED or any(len(agent) != 2 or not min(agent) > 0 for agent in team):
                raise UserError(f"env.team={team} must be {N_LEARNED} pairs of positive numbers, [radius, force]")
            self.agents = tuple(Body("agent", radius, True, force=force) for radius, force in team)
            self.reference = None  # returns of other bodies differ, even those of random agents
            self.variant += ("heterogeneous",)
        if sight is not None:
            if not sight > 0:
                raise UserError(f"env.sight={sight} must be a positive number of lengths, or null")
            self.observation_layout += (
                f"; what is farther than {float(sight)} is zeros, and the first 3 of communication say of each "
                "landmark whether it is in sight (1) or not (0)"
            )
            self.sees_all = False
            self.variant += ("occluded",)
        self._sight = sight

    def observe(self, world: Snapshot) -> Tensor:
        """Own velocity and position, landmarks, others, zeros (or marks of landmarks in sight): `[3, 18, E]`.

        A teammate out of sight needs no mark, because its relative position is never zero otherwise.
        """
        silence = torch.zeros_like(world.positions).repeat(1, 2, 1)
        relative = world.relative
        if self._sight is not None:
            in_sight = world.distances <= self._sight
            relative = relative * in_sight[:, :, None]
            n_landmarks = len(self.landmarks)
            silence[:, :n_landmarks] = in_sight[:, :n_landmarks].to(silence.dtype)
        return torch.cat((world.velocities, world.positions, relative.flatten(1, 2), silence), dim=1)

    def rewards(self, world: Snapshot) -> Tensor:
        """Shared coverage, and minus 5 per touched agent: `[3, E]`."""
        n_landmarks = len(self.landmarks)
        nearest = world.distances[:, :n_landmarks].amin(dim=0)
        coverage = nearest.reciprocal_().clamp_(max=10.0).sum(dim=0)
        touching = world.distances[:, n_landmarks:] < world.contact[:, n_landmarks:]
        return coverage - 5.0 * touching.sum(dim=1)


class Tag(PreyScenario):
    """Three predators chase one faster prey around two obstacles (predator-prey)."""

    task = "tag"
    agents = (*PREDATORS, Body("prey", 0.05, True, force=16.0, max_speed=1.3))
    landmarks = (Body("obstacle", 0.2, True),) * 2
    observation_dim = 16
    prey_observation_dim = 14
    predators = slice(8, 14)
    obstacles = slice(4, 8)
    hit_reward = 10.0
    reward = "shared: -0.1 * sum of predators' distances to the prey + 10 * predators touching it"
    observation_layout = "velocity 2, position 2, obstacles 2x2, other agents 3x2, prey velocity 2"
    reference = ReferenceScores(-4.1, 185.6, PUBLISHED_SCORES)

    def prey_rewards(self, world: Snapshot) -> Tensor:
        """+0.1 * distances - 10 * hits - bound: `[1, E]`."""
        distance, touching = self._chase(world)
        return 0.1 * distance - 10.0 * touching - _out_of_bounds(world.positions[N_LEARNED:])


class World(PreyScenario):
    """Three predators chase one prey that eats; forests mark places and hide no agents."""

    task = "world"
    agents = (*PREDATORS, Body("prey", 0.045, True, force=16.0, max_speed=1.3))
    landmarks = (
        Body("obstacle", 0.2, True),
        *(Body("food", 0.03, False),) * 2,
        *(Body("forest", 0.3, False),) * 2,
    )
    observation_dim = 24
    prey_observation_dim = 22
    predators = slice(14, 20)
    obstacles = slice(4, 6)
    food, forests = slice(1, 3), slice(3, 5)
    hit_reward = 5.0
    reward = "shared: -0.1 * sum of predators' distances to the prey + 5 * predators touching it"
    observation_layout = (
        "velocity 2, position 2, obstacle 2, food 2x2, forests 2x2, other agents 3x2, prey velocity 2, "
        "in each forest (+1) or not (-1) 2"
    )
    reference = ReferenceScores(-6.8, 79.5, PUBLISHED_SCORES)

    def prey_rewards(self, world: Snapshot) -> Tensor:
        """+0.1 * distances - 5 * hits - 2 * bound + 2 * food touched + 0.05 * nearest food's distance: `[1, E]`."""
        distance, touching = self._chase(world)
        to_food = world.distances[N_LEARNED, self.food]
        eaten = (to_food < self.agents[N_LEARNED].radius + self.landmarks[self.food.start].radius).sum(dim=0)
        chase = 0.1 * distance - 5.0 * touching - 2.0 * _out_of_bounds(world.positions[N_LEARNED:])
        return chase + 2.0 * eaten + 0.05 * to_food.amin(dim=0)

    def _marks(self, world: Snapshot, own: slice) -> tuple[Tensor, ...]:
        """Marks of whether agents are in each forest (+1) or not (-1)."""
        radius = self.agents[own][0].radius + self.landmarks[self.forests.start].radius
        inside = world.distances[own, self.forests] < radius
        return (inside.to(world.distances.dtype).mul_(2.0).sub_(1.0),)


SCENARIOS: dict[str, type[Scenario]] = {scenario.task: scenario for scenario in (Spread, Tag, World)}


def _out_of_bounds(positions: Tensor) -> Tensor:
    """A prey's penalty for leaving: 0 below 0.9, steep to 1, then exponential up to 10, summed over axes: `[M, E]`."""
    reach = positions.abs()
    beyond = (2.0 * reach - 2.0).exp_().clamp_(max=10.0)
    return torch.where(reach < 1.0, (10.0 * (reach - 0.9)).clamp_(min=0.0), beyond).sum(dim=1)
