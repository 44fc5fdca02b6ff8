"""A hand-written team for mpe2's Spread: every agent computes by itself which agent takes which landmark."""

import copy
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Self

import torch
from torch import Tensor

from data_modules.behavior.base import Behavior
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec

FACTORY = "mpe2.simple_spread_v3.parallel_env"
APPROACH = 3.0  # wanted speed for each unit of distance to the landmark, per unit of time
LARGEST_TEAM = 5  # all N! assignments are compared

# mpe2's motion (mpe2 1.1, _mpe_utils/core.py), and that of envs/particle/env.py: v <- 0.75 v + 5 u dt with dt = 0.1.
KEPT_SPEED, SPEED_OF_FORCE = 0.75, 0.5


class SpreadTeam(DecentralizedPolicy):
    """Agents that divide the landmarks without communication, and drive to them.

    An agent observes all landmarks and agents relative to itself, so each can compute the assignment with the
    smallest summed distance and take its own part of it. All compute the same assignment, because distances between
    others do not depend on the observing agent. The action is a force that makes the speed `APPROACH` times the way
    left, plus Gaussian noise.

    Args:
        n_agents: N, as many as there are landmarks.
        exploration_noise: standard deviation of the noise on each of the five action dimensions.
    """

    assignments: Tensor

    def __init__(self, n_agents: int, exploration_noise: float) -> None:
        super().__init__()
        self.n_agents, self.n_landmarks = n_agents, n_agents
        self.exploration_noise = exploration_noise
        orders = torch.tensor(list(permutations(range(n_agents))))
        self.register_buffer("assignments", orders, persistent=False)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, 5]`."""
        return torch.randn(n_episodes, self.n_agents, 5, generator=generator, device=generator.device)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The force towards the own landmark; see the class."""
        velocity = observations[..., :2]
        wanted = APPROACH * self.way_to_landmark(observations)
        force = ((wanted - KEPT_SPEED * velocity) / SPEED_OF_FORCE).clamp(-1, 1)
        # Actions are [nothing, left, right, down, up]; with each in [-1, 1] a force is half of right minus left.
        x, y = force.unbind(-1)
        actions = torch.stack((torch.zeros_like(x), -x, x, -y, y), dim=-1)
        return (actions + self.exploration_noise * noise).clamp(-1, 1), carry

    def way_to_landmark(self, observations: Tensor) -> Tensor:
        """`[E, N, 2]`, from each agent to the landmark it takes.

        Args:
            observations: `[E, N, O]` = own velocity and position, landmarks, other agents (both relative), silence.
        """
        count = self.n_landmarks
        seen = observations.shape[:-1]
        landmarks = self.landmarks(observations)
        others = observations[..., 4 + 2 * count : 2 + 4 * count].reshape(*seen, count - 1, 2)
        # The observing agent comes first, at the origin of its own view.
        agents = torch.cat((torch.zeros_like(others[..., :1, :]), others), dim=-2)
        distances = torch.cdist(agents, landmarks)
        totals = distances[..., torch.arange(count), self.assignments].sum(-1)
        mine = self.assignments[totals.argmin(-1), 0]
        return pick(landmarks, mine)

    def landmarks(self, observations: Tensor) -> Tensor:
        """`[E, N, L, 2]`, from each agent to every landmark."""
        count = self.n_landmarks
        return observations[..., 4 : 4 + 2 * count].reshape(*observations.shape[:-1], count, 2)

    def export(self, agent: int) -> Self:
        """Agent `agent` alone: all follow the same rule."""
        alone = copy.deepcopy(self)
        alone.n_agents = 1
        return alone


def pick(landmarks: Tensor, index: Tensor) -> Tensor:
    """Selects from landmarks `[E, N, L, 2]` those with indices `[E, N]`: `[E, N, 2]`."""
    return landmarks.gather(-2, index[..., None, None].expand(*index.shape, 1, 2)).squeeze(-2)


@dataclass(frozen=True)
class ScriptedSpread(Behavior):
    """The team of `SpreadTeam`, with its noise, in mpe2's `simple_spread_v3` with continuous actions."""

    exploration_noise: float

    name = "scripted"

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        _check(spec)
        return {
            "name": self.name,
            "policy": "assignment with the smallest summed distance",
            "approach": APPROACH,
            "exploration_noise": self.exploration_noise,
        }

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        _check(spec)
        return [SpreadTeam(spec.n_agents, self.exploration_noise)]


def _check(spec: EnvSpec) -> None:
    """Refuses an environment whose observations would be misread."""
    n = spec.n_agents
    sees_all = all(agent.observation_dim == 6 * n and agent.action_dim == 5 for agent in spec.agents)
    if spec.recipe.get("factory") != FACTORY or spec.action_kind != "continuous" or not sees_all or n > LARGEST_TEAM:
        raise UserError(
            f"data.source.behavior: the scripted Spread team acts in {FACTORY} with continuous_actions: true, "
            f"full sight and up to {LARGEST_TEAM} agents, not {spec.name!r}; use data_modules.behavior.sources.Random"
        )
