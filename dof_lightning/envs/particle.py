"""The particle world that offline MARL benchmarks use: OMAR's variant, thousands of episodes at once.

It is not today's mpe2/PettingZoo task: actions, integration order, forces and rewards differ (facts from
github.com/ling-pan/OMAR), so data and policies of one are wrong in the other and the recipes keep them apart.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv
from dof_lightning.envs.particle_scenarios import Scenario, Snapshot, Spread
from dof_lightning.errors import UserError
from dof_lightning.seeding import counter_uniform
from dof_lightning.spec import AgentSpec, EnvSpec

Task = Literal["spread", "tag", "world"]

HORIZON = 25
TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3

_SCENARIOS: dict[str, type[Scenario]] = {"spread": Spread}


class ParticleEnv(VectorEnv):
    """E episodes of Spread, Tag (predator-prey) or World, in torch.

    Args:
        task: `spread`, `tag` or `world`.
        device: where the episodes live.
        dtype: of positions, velocities, observations and rewards.

    Raises:
        UserError: the task is unknown.
    """

    def __init__(
        self, task: Task = "spread", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        if task not in _SCENARIOS:
            raise UserError(f"env.task={task!r} is unknown; choose one of {', '.join(_SCENARIOS)}")
        self._scenario = _SCENARIOS[task]()
        self._device, self._dtype = torch.device(device), dtype
        self.spec = self._make_spec(task)
        self._make_constants()
        self._time = 0
        self._entities: Tensor
        self._velocities: Tensor
        self._world: Snapshot | None = None

    @property
    def positions(self) -> Tensor:
        """`[E, P, 2]`, agents' positions now, learned agents first."""
        return self._entities[self._n_landmarks :].permute(2, 0, 1)

    @property
    def velocities(self) -> Tensor:
        """`[E, P, 2]`, agents' velocities now."""
        return self._velocities.permute(2, 0, 1)

    @property
    def landmarks(self) -> Tensor:
        """`[E, L, 2]`, landmarks' positions."""
        return self._entities[: self._n_landmarks].permute(2, 0, 1)

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`: agents at rest in [-1, 1]^2, landmarks in the task's range."""
        places = counter_uniform(seeds.to(self._device), 2 * (self._n_agents + self._n_landmarks))
        places = (2.0 * places - 1.0).unflatten(1, (-1, 2))
        agents, landmarks = places.split((self._n_agents, self._n_landmarks), dim=1)
        return self.reset_to(agents, torch.zeros_like(agents), landmarks * self._scenario.landmark_range)

    def reset_to(self, positions: Tensor, velocities: Tensor, landmarks: Tensor) -> Tensor:
        """Starts episodes from given states.

        Args:
            positions, velocities: `[E, P, 2]`, learned agents first.
            landmarks: `[E, L, 2]`.

        Returns:
            observations `[E, N, O]`.
        """
        entities = torch.cat((landmarks, positions), dim=1).to(self._device, self._dtype)
        self._entities = entities.permute(1, 2, 0).contiguous()
        self._velocities = velocities.to(self._device, self._dtype).permute(1, 2, 0).contiguous()
        self._time = 0
        self._world = self._look()
        return self._episodes_first(self._scenario.observe(self._world))

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`; an action is the direction of the force, `[E, N, 2]`."""
        if self._world is None:
            raise RuntimeError("step before reset")
        self._check(actions)
        self._move(actions.to(self._device, self._dtype).clamp(-1.0, 1.0).permute(1, 2, 0), self._world)
        self._time += 1
        self._world = self._look()
        n_episodes = actions.shape[0]
        return StepResult(
            observations=self._episodes_first(self._scenario.observe(self._world)),
            rewards=self._scenario.rewards(self._world).t().contiguous(),
            terminated=torch.zeros(n_episodes, dtype=torch.bool, device=self._device),
            truncated=torch.full((n_episodes,), self._time >= HORIZON, device=self._device),
            info=StepInfo(),
        )

    def render(self, index: int) -> np.ndarray:
        """See `VectorEnv.render`."""
        raise NotImplementedError

    def _check(self, actions: Tensor) -> None:
        expected = (self._velocities.shape[2], self._scenario.n_learned, 2)
        if tuple(actions.shape) != expected:
            raise ValueError(f"actions have shape {tuple(actions.shape)}, expected [E, N, A] = {expected}")
        # A sum is finite only where every term is: one reduction, and a second look only where it overflowed.
        if not torch.isfinite(actions.sum()) and not torch.isfinite(actions).all():
            raise ValueError("actions hold a value that is not finite")

    def _move(self, actions: Tensor, world: Snapshot) -> None:
        """Integrates one time step: damp, accelerate, limit the speed, and move with the new velocity."""
        colliders = slice(self._first_collider, None)
        distances = world.distances[:, colliders]
        penetration = functional.softplus(self._contact_distance - distances, beta=1.0 / CONTACT_MARGIN)
        pressure = penetration.div_(distances.clamp(min=1e-12)).mul_(-CONTACT_FORCE * TIME_STEP)
        contact_impulse = (world.relative[:, colliders] * pressure[:, :, None]).sum(dim=1)
        velocities = torch.addcmul(contact_impulse, actions, self._impulse).add_(self._velocities, alpha=1.0 - DAMPING)
        if self._max_speed is not None:
            speed = torch.hypot(velocities[:, 0], velocities[:, 1])
            velocities.mul_((self._max_speed / speed).clamp_(max=1.0)[:, None])
        self._velocities = velocities
        self._entities[self._n_landmarks :].add_(velocities, alpha=TIME_STEP)

    def _look(self) -> Snapshot:
        positions = self._entities[self._n_landmarks :]
        seen = self._entities.index_select(0, self._seen).unflatten(0, (self._n_agents, -1))
        relative = seen.sub_(positions[:, None])
        return Snapshot(self._velocities, positions, relative, torch.hypot(relative[:, :, 0], relative[:, :, 1]))

    def _make_spec(self, task: Task) -> EnvSpec:
        scenario = self._scenario
        names = [f"{body.kind}_{i}" for i, body in enumerate(scenario.agents[: scenario.n_learned])]
        recipe: dict[str, Any] = {
            "family": "particle",
            "variant": "omar",
            "task": task,
            "physics": _physics(scenario),
            "horizon": HORIZON,
            "opponent": None,
            **scenario.recipe(),
        }
        return EnvSpec(
            name=f"mpe_{task}",
            agents=tuple(AgentSpec(name, scenario.observation_dim, 2) for name in names),
            action_kind="continuous",
            horizon=HORIZON,
            state_dim=0,
            recipe=recipe,
            reference=scenario.reference,
        )

    def _make_constants(self) -> None:
        agents, landmarks = self._scenario.agents, self._scenario.landmarks
        self._n_agents, self._n_landmarks = len(agents), len(landmarks)
        bodies = (*landmarks, *agents)
        seen = [[j for j in range(len(bodies)) if j != len(landmarks) + i] for i in range(len(agents))]
        self._seen = torch.tensor(seen, device=self._device).flatten()
        self._first_collider = next(i for i, body in enumerate(bodies) if body.collides)
        contact_distance = [
            [agent.radius + bodies[j].radius if bodies[j].collides else -float("inf") for j in row]
            for agent, row in zip(agents, seen, strict=True)
        ]
        self._contact_distance = self._constant(contact_distance)[:, self._first_collider :, None]
        self._impulse = self._constant([body.force * TIME_STEP for body in agents])[:, None, None]
        max_speed = self._constant([body.max_speed for body in agents])[:, None]
        self._max_speed = max_speed if bool(max_speed.isfinite().any()) else None

    def _constant(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device)

    @staticmethod
    def _episodes_first(observations: Tensor) -> Tensor:
        return observations.permute(2, 0, 1).contiguous()


def _physics(scenario: Scenario) -> dict[str, Any]:
    bodies = [
        [body.kind, body.radius, body.collides, body.force, None if body.max_speed == float("inf") else body.max_speed]
        for body in (*scenario.agents, *scenario.landmarks)
    ]
    return {
        "time_step": TIME_STEP,
        "damping": DAMPING,
        "contact_force": CONTACT_FORCE,
        "contact_margin": CONTACT_MARGIN,
        "integration": "damp, accelerate, limit speed, move with the new velocity",
        "bodies": bodies,
        "landmark_range": scenario.landmark_range,
    }
