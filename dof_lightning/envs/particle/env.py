"""The particle world that offline MARL benchmarks use: OMAR's variant, thousands of episodes at once.

It is not today's mpe2/PettingZoo task: actions, integration order, forces and rewards differ (facts from
github.com/ling-pan/OMAR), so data and policies of one are wrong in the other, and the recipes distinguish them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv, check_continuous
from dof_lightning.envs.particle.prey import Prey, make_prey
from dof_lightning.envs.particle.render import draw
from dof_lightning.envs.particle.scenarios import N_LEARNED, SCENARIOS, PreyScenario, Scenario, Snapshot, Spread
from dof_lightning.errors import UserError
from dof_lightning.seeding import counter_uniform
from dof_lightning.spec import AgentSpec, EnvSpec, ReferenceScores

Task = Literal["spread", "tag", "world"]

HORIZON = 25
TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3


class ParticleEnv(VectorEnv):
    """E episodes of Spread, Tag (predator-prey) or World, in torch.

    Tag's and World's learned agents are the predators; the prey is part of the environment and of its recipe.

    Args:
        task: `spread`, `tag` or `world`.
        prey: for Tag and World only: `trained` (the default), `scripted`, `still`, or a prey's file (`make_prey`).
        device: the device of the episodes' tensors.
        dtype: dtype of positions, velocities, observations and rewards.
        opponent: a prey made in Python, used instead of a named one.
        team, sight: for Spread only, see `Spread`: agents of different radius and force, and the range of their sight.

    Raises:
        UserError: the task or the prey is unknown, or an argument does not apply to the task.
    """

    def __init__(
        self,
        task: Task = "spread",
        prey: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        opponent: Prey | None = None,
        team: Sequence[Sequence[float]] | None = None,
        sight: float | None = None,
    ) -> None:
        self._scenario = _make_scenario(task, team, sight)
        self._device, self._dtype = torch.device(device), dtype
        self._prey = opponent or self._choose_prey(prey)
        self.spec = self._make_spec(task)
        self._make_constants()
        self._time = 0
        self._entities: Tensor
        self._velocities: Tensor
        self._world: Snapshot | None = None
        self._prey_sees: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """`[E, P, 2]`, current positions: learned agents, then the prey."""
        return self._entities[self._n_landmarks :].permute(2, 0, 1).clone()

    @property
    def velocities(self) -> Tensor:
        """`[E, P, 2]`, current velocities."""
        return self._velocities.permute(2, 0, 1).clone()

    @property
    def landmarks(self) -> Tensor:
        """`[E, L, 2]`, landmarks' positions."""
        return self._entities[: self._n_landmarks].permute(2, 0, 1).clone()

    @property
    def extra_observations(self) -> Tensor | None:
        """See `VectorEnv.extra_observations`: the prey's, `[E, 1, O']`."""
        return None if self._prey_sees is None else self._prey_sees.t()[:, None]

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`: agents at rest in [-1, 1]^2, landmarks in the task's range."""
        places = counter_uniform(seeds.to(self._device), 2 * (self._n_agents + self._n_landmarks))
        places = (2.0 * places - 1.0).reshape(len(seeds), -1, 2)
        agents, landmarks = places[:, : self._n_agents], places[:, self._n_agents :]
        return self.reset_to(agents, torch.zeros_like(agents), landmarks * self._scenario.landmark_range)

    def reset_like(self, observations: Tensor) -> Tensor | None:
        """See `VectorEnv.reset_like`: agents observe their own velocity and position, others' relative positions."""
        if not self._scenario.sees_all:
            return None
        velocities, positions = observations[..., :2], observations[..., 2:4]
        end = 4 + 2 * (self._n_landmarks + self._n_agents - 1)
        seen = observations[:, 0, 4:end].reshape(len(observations), -1, 2) + positions[:, :1]
        if self._scenario.has_prey:  # the prey is the last of the seen bodies, and its velocity follows
            positions = torch.cat((positions, seen[:, -1:]), dim=1)
            velocities = torch.cat((velocities, observations[:, :1, end : end + 2]), dim=1)
        return self.reset_to(positions, velocities, seen[:, : self._n_landmarks])

    def reset_to(self, positions: Tensor, velocities: Tensor, landmarks: Tensor) -> Tensor:
        """Starts episodes from given states.

        Args:
            positions: `[E, P, 2]`, learned agents, then the prey.
            velocities: `[E, P, 2]`.
            landmarks: `[E, L, 2]`.

        Returns:
            observations `[E, N, O]`.
        """
        entities = torch.cat((landmarks, positions), dim=1).to(self._device, self._dtype)
        self._entities = entities.permute(1, 2, 0).contiguous()
        self._velocities = velocities.to(self._device, self._dtype).permute(1, 2, 0).contiguous()
        self._time = 0
        return self._look()

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`; an action is the force's direction and strength, `[E, N, 2]`.

        Raises:
            ValueError: the shape is not `[E, N, 2]`, or a value is not finite.
            RuntimeError: there was no reset, or the episodes are over.
        """
        if self._world is None or self._time >= HORIZON:
            raise RuntimeError("no episode is running: call reset before step")
        actions = actions.detach()
        check_continuous(actions, (self._velocities.shape[2], N_LEARNED, 2))
        pushes = actions.to(self._device, self._dtype).clamp(-1.0, 1.0).permute(1, 2, 0)
        prey_actions = None
        if self._prey is not None and self._prey_sees is not None:
            prey_actions = self._prey.act(self._prey_sees)
            pushes = torch.cat((pushes, prey_actions[None]))
        self._move(pushes, self._world)
        self._time += 1
        observations = self._look()
        n_episodes = len(actions)
        return StepResult(
            observations=observations,
            rewards=self._scenario.rewards(self._world).t().contiguous(),
            terminated=torch.zeros(n_episodes, dtype=torch.bool, device=self._device),
            truncated=torch.full((n_episodes,), self._time >= HORIZON, device=self._device),
            info=self._info(prey_actions),
        )

    def render(self, index: int) -> np.ndarray:
        """See `VectorEnv.render`; 400 x 400, the outlined square is [-1, 1]^2."""
        if self._world is None:
            raise RuntimeError("nothing to render: call reset first")
        bodies = (*self._scenario.landmarks, *self._scenario.agents)
        positions = self._entities[:, :, index].cpu().numpy()
        return draw(bodies, positions, f"{self.spec.name}  step {self._time}/{HORIZON}")

    def _move(self, pushes: Tensor, world: Snapshot) -> None:
        """Integrates one time step: damp, accelerate, limit the speed, and move with the new velocity."""
        distances, contact_distance = (pairs[:, self._first_collider :] for pairs in (world.distances, world.contact))
        # Contact force 100 k log(1 + exp((d_min - d) / k)) along the line between the centres.
        impulses = functional.softplus(contact_distance - distances, beta=1.0 / CONTACT_MARGIN)
        impulses.div_(distances.clamp(min=1e-12)).mul_(-CONTACT_FORCE * TIME_STEP)
        contact = (world.relative[:, self._first_collider :] * impulses[:, :, None]).sum(dim=1)
        velocities = torch.addcmul(contact, pushes, self._impulse).add_(self._velocities, alpha=1.0 - DAMPING)
        if self._max_speed is not None:
            speed = torch.hypot(velocities[:, 0], velocities[:, 1])
            velocities.mul_((self._max_speed / speed).clamp_(max=1.0)[:, None])
        self._velocities = velocities
        moved = torch.add(world.positions, velocities, alpha=TIME_STEP)
        self._entities = torch.cat((self._entities[: self._n_landmarks], moved))

    def _look(self) -> Tensor:
        """Measures the new state once, for rewards and the next contacts as well; returns observations `[E, N, O]`."""
        positions = self._entities[self._n_landmarks :]
        relative = self._entities.index_select(0, self._seen).view(self._n_agents, -1, 2, positions.shape[-1])
        relative.sub_(positions[:, None])
        distances = torch.hypot(relative[:, :, 0], relative[:, :, 1])
        self._world = Snapshot(self._velocities, positions, relative, distances, self._contact_distance)
        if self._scenario.has_prey:
            self._prey_sees = cast(PreyScenario, self._scenario).observe_prey(self._world)[0]
        return self._scenario.observe(self._world).permute(2, 0, 1).contiguous()

    def _info(self, prey_actions: Tensor | None) -> StepInfo:
        if prey_actions is None or self._world is None:
            return StepInfo()
        return StepInfo(
            extra_observations=self.extra_observations,
            extra_actions=prey_actions.t()[:, None],
            extra_rewards=cast(PreyScenario, self._scenario).prey_rewards(self._world).t(),
        )

    def _choose_prey(self, prey: str | None) -> Prey | None:
        if self._scenario.has_prey:
            return make_prey("trained" if prey is None else prey, self._scenario, self._device, self._dtype)
        if prey is not None:
            raise UserError(f"env.prey={prey!r}: env.task=spread has no prey; remove env.prey, or choose tag or world")
        return None

    def _make_spec(self, task: Task) -> EnvSpec:
        scenario = self._scenario
        names = [f"{body.kind}_{i}" for i, body in enumerate(scenario.learned)]
        recipe: dict[str, Any] = {
            "family": "particle",
            "variant": "omar",
            "task": task,
            "physics": _physics(scenario),
            "reward": scenario.reward,
            "observation": scenario.observation_layout,
            "horizon": HORIZON,
            "opponent": None if self._prey is None else self._prey.identity,
        }
        return EnvSpec(
            name="_".join(("mpe", task, *scenario.variant)),
            agents=tuple(AgentSpec(name, scenario.observation_dim, 2) for name in names),
            action_kind="continuous",
            horizon=HORIZON,
            state_dim=0,
            recipe=recipe,
            reference=self._reference(),
            own_reference=None if self._prey is None else self._prey.reference,
        )

    def _reference(self) -> ReferenceScores | None:
        reference = self._scenario.reference
        if reference is not None and not self._scenario.sees_all:
            return replace(reference, source=f"{reference.source}; there agents see everything")
        if reference is None or self._prey is None or self._prey.identity["kind"] == "omar":
            return reference
        kind = self._prey.identity["kind"]
        return replace(reference, source=f"{reference.source}; against OMAR's prey, while this prey is {kind}")

    def _make_constants(self) -> None:
        agents, landmarks = self._scenario.agents, self._scenario.landmarks
        self._n_agents, self._n_landmarks = len(agents), len(landmarks)
        bodies = (*landmarks, *agents)
        seen = [[j for j in range(len(bodies)) if j != len(landmarks) + i] for i in range(len(agents))]
        self._seen = torch.tensor(seen, device=self._device).flatten()
        self._first_collider = next(i for i, body in enumerate(bodies) if body.collides)
        contact_distance = [
            [agent.radius + bodies[j].radius if bodies[j].collides else -math.inf for j in row]
            for agent, row in zip(agents, seen, strict=True)
        ]
        self._contact_distance = self._constant(contact_distance)[:, :, None]
        self._impulse = self._constant([body.force * TIME_STEP for body in agents])[:, None, None]
        limited = any(math.isfinite(body.max_speed) for body in agents)
        self._max_speed = self._constant([body.max_speed for body in agents])[:, None] if limited else None

    def _constant(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device)


def _make_scenario(task: Task, team: Sequence[Sequence[float]] | None, sight: float | None) -> Scenario:
    """Builds the task, with its team and sight if these are set."""
    if task not in SCENARIOS:
        raise UserError(f"env.task={task!r} is unknown; choose one of {', '.join(SCENARIOS)}")
    if SCENARIOS[task] is Spread:
        return Spread(team, sight)
    for name, value in (("team", team), ("sight", sight)):
        if value is not None:
            raise UserError(f"env.{name}={value}: only env.task=spread has it; remove env.{name}")
    return SCENARIOS[task]()


def _physics(scenario: Scenario) -> dict[str, Any]:
    """The recipe's entries about bodies and motion; JSON has no infinity, so null means no limit."""
    bodies = [
        [body.kind, body.radius, body.collides, body.force, body.max_speed if math.isfinite(body.max_speed) else None]
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
