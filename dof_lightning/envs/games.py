"""The motivating games that a product of per-agent models can or cannot play: two-dimensional data, landmark covering.

The paper names the games; starts, weights and the scale of actions are ours [inferred], see docs/method/games.md.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv, check_continuous
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.seeding import counter_uniform
from dof_lightning.spec import AgentSpec, EnvSpec

SIGMA = 0.1
COORDINATE_RANGE = 1.5  # the coordinate that an action of 1 stands for: five sigma beyond a mode

AGENT_RING, LANDMARK_RING = 0.3, 0.8
LANDMARK_GAME_VARIANT = "rings"


class GaussianGame(VectorEnv):
    """One step, two agents: agent i chooses coordinate i of a point; together their points should follow a mixture.

    The distribution is a mixture of Gaussians at (+-1, +-1) with sigma 0.1. An action a stands for the coordinate 1.5
    a. There is nothing to observe: the observation is the number 0 for every seed. The reward is 1 for both if the
    point lies within 3 sigma of a mode that has weight, else 0.

    Args:
        weights: `[2, 2]`, the quadrants' weights; rows x1 = -1, +1, columns x2 = -1, +1; not negative, they sum to 1.
        device: the device of the episodes' tensors.

    Raises:
        UserError: the weights are not such a table.
    """

    sigma = SIGMA
    has_random_start = False

    def __init__(self, weights: Sequence[Sequence[float]], device: torch.device | str = "cpu") -> None:
        self.weights = self.law = _table(weights)
        self._device = torch.device(device)
        self._n_episodes: int | None = None
        recipe = {
            "family": "games",
            "game": "gaussian",
            "weights": self.weights.tolist(),
            "sigma": SIGMA,
            "coordinate_range": COORDINATE_RANGE,
            "starts": "all alike",
            "reward": "1 within 3 sigma of a mode that has weight",
        }
        self.spec = EnvSpec(
            name="game_gaussian",
            agents=(AgentSpec("x1", 1, 1), AgentSpec("x2", 1, 1)),
            action_kind="continuous",
            horizon=1,
            state_dim=0,
            recipe=recipe,
        )

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`; zeros `[E, 2, 1]`."""
        self._n_episodes = len(seeds)
        return self._observe(len(seeds))

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`; the only step.

        Raises:
            ValueError: the shape is not `[E, 2, 1]`, or a value is not finite.
            RuntimeError: there was no reset, or the episodes are over.
        """
        if self._n_episodes is None:
            raise RuntimeError("no episode is running: call reset before step")
        check_continuous(actions, (self._n_episodes, 2, 1))
        count, self._n_episodes = self._n_episodes, None
        rewards = self.on_support(coordinates(actions.detach().to(self._device))).float()
        return StepResult(
            observations=self._observe(count),
            rewards=rewards[:, None].expand(-1, 2).contiguous(),
            terminated=torch.zeros(count, dtype=torch.bool, device=self._device),
            truncated=torch.ones(count, dtype=torch.bool, device=self._device),
            info=StepInfo(),
        )

    def on_support(self, points: Tensor) -> Tensor:
        """`[M]` bool: `[M, 2]` coordinates within 3 sigma of a mode that has weight."""
        mode = torch.where(points > 0, 1.0, -1.0)
        near = (points - mode).norm(dim=-1) <= 3 * SIGMA
        weight = self.weights.to(points.device)[(points[:, 0] > 0).long(), (points[:, 1] > 0).long()]
        return near & (weight > 0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws true data: `[count, 2]` coordinates, both jointly from the mixture."""
        device = generator.device
        quadrant = torch.multinomial(self.weights.to(device).flatten(), count, replacement=True, generator=generator)
        mode = torch.stack([quadrant // 2, quadrant % 2], dim=-1) * 2.0 - 1.0
        return mode + SIGMA * torch.randn(count, 2, generator=generator, device=device)

    def _observe(self, count: int) -> Tensor:
        return torch.zeros(count, 2, 1, device=self._device)


def coordinates(actions: Tensor) -> Tensor:
    """The points `[E, 2]` that actions `[E, 2, 1]` in [-1, 1] (clipped) stand for."""
    return COORDINATE_RANGE * actions.clamp(-1.0, 1.0).squeeze(-1)


def actions_of(points: Tensor) -> Tensor:
    """The actions `[E, 2, 1]` of points `[E, 2]`; inverse of `coordinates` within the range."""
    return (points / COORDINATE_RANGE).clamp(-1.0, 1.0).unsqueeze(-1)


class LandmarkGame(ParticleEnv):
    """Spread with starts from which every assignment can be completed in time.

    The landmarks are always the same corners of a triangle, on a circle of radius 0.8. Agents start at rest, evenly
    spaced on a circle of radius 0.3, which is turned by any angle and occupied in any order. Landmarks are far enough
    apart (1.39) for three discs of radius 0.15 to cover all of them; Spread's own starts are uniform and often place
    two landmarks within one disc.

    Args:
        device: the device of the episodes' tensors.
        dtype: dtype of positions, velocities, observations and rewards.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        super().__init__("spread", device=device, dtype=dtype)
        starts = {"agents": f"ring {AGENT_RING}, any turn and order", "landmarks": f"ring {LANDMARK_RING}, fixed"}
        recipe = {**self.spec.recipe, "variant": LANDMARK_GAME_VARIANT, "starts": starts}
        self.spec = replace(self.spec, name="game_landmark", recipe=recipe, reference=None)

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset` and the class."""
        drawn = counter_uniform(seeds.to(self._device), 4)
        agents = AGENT_RING * _ring(drawn[:, 0], drawn[:, 1:].argsort(dim=1))
        corners = torch.arange(3, device=self._device).expand(len(seeds), 3)
        landmarks = LANDMARK_RING * _ring(torch.full_like(drawn[:, 0], 0.25), corners)
        return self.reset_to(agents, torch.zeros_like(agents), landmarks)


def _ring(turn: Tensor, place: Tensor) -> Tensor:
    """Points `[E, 3, 2]` on the unit circle at places `[E, 3]` (0, 1 or 2), turned by `[E]` in [0, 1) of a circle."""
    angle = 2 * math.pi * (turn[:, None] + place / 3)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _table(weights: Sequence[Sequence[float]]) -> Tensor:
    rows = [list(row) for row in weights]
    fits = len(rows) == 2 and all(len(row) == 2 and all(weight >= 0 for weight in row) for row in rows)
    if not fits or abs(sum(map(sum, rows)) - 1.0) > 1e-6:
        raise UserError(
            f"env.weights={rows} must be two rows of two weights that are not negative and sum to 1, "
            "e.g. [[0.0, 0.5], [0.5, 0.0]]"
        )
    return torch.tensor(rows, dtype=torch.float64)
