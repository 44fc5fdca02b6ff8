"""PettingZoo's parallel environments as vectorised ones: several copies are stepped together."""

import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pettingzoo import ParallelEnv
from torch import Tensor

from dof_lightning.envs.base import StepResult
from dof_lightning.envs.handover import refuse
from dof_lightning.envs.pettingzoo.answers import Reader, Results
from dof_lightning.envs.pettingzoo.rows import Ended, Rows, RowsEnv
from dof_lightning.envs.pettingzoo.spaces import ObservationVectors, make_action_map
from dof_lightning.errors import UserError, import_name
from dof_lightning.recipe import check_finite
from dof_lightning.spec import AgentSpec, EnvSpec

_SEED_BITS = 2**31 - 1  # many environments pass their seed to generators that accept no more bits


class PettingZooEnv(RowsEnv):
    """E copies of a PettingZoo parallel environment, made when needed and kept for later episodes.

    All agents are learned. Boxes of any finite range become [-1, 1], discrete actions become indices from 0;
    observations are flattened; agents with smaller spaces are padded with zeros. An agent that leaves before its
    episode ends is no longer `alive`, observes zeros and earns nothing. The names that `factory` accepts without
    `trust=true` are defined in the checks of configurations (`dof_lightning.config.targets`).

    Args:
        name: a name for people and folders; None means the module's.
        factory: a callable that builds a `ParallelEnv`, as `module.name` or `module:name`, e.g.
            `mpe2.simple_spread_v3.parallel_env`.
        arguments: the factory's keyword arguments.
        horizon: steps after which an episode is truncated, if the environment has not ended it before.
        global_state: whether to record the environment's `state()`.

    Raises:
        UserError: the package is missing, the factory refuses the arguments or builds something else, or a space
            cannot be mapped.
    """

    episodes_at_once = 100  # a copy of an mpe2 environment takes 2 MB

    def __init__(
        self,
        *,
        name: str | None,
        factory: str | None,
        horizon: int,
        arguments: Mapping[str, Any] | None = None,
        global_state: bool = False,
    ) -> None:
        if horizon < 1:
            raise UserError(f"env.horizon={horizon} must be at least 1")
        if factory is None:
            raise UserError(
                "env.factory= is missing; name the function to call: env.factory=my_package.my_env:parallel_env"
            )
        self._factory_name = factory.replace(":", ".")
        self._factory = self._find(self._factory_name)
        self._arguments: dict[str, Any] = _plain(arguments or {})
        check_finite(self._arguments, "env.arguments")
        name = name or self._factory_name.split(".")[-2]
        first = self._make(self._arguments)
        # PettingZoo must know at construction that a copy will be drawn.
        self._drawn = "rgb_array" in first.metadata.get("render_modes", ()) and "render_mode" not in self._arguments
        self._copies: list[ParallelEnv] = [] if self._drawn else [first]
        self._agents: list[Any] = list(first.possible_agents)
        self._observations = ObservationVectors({agent: first.observation_space(agent) for agent in self._agents})
        self._actions = make_action_map({agent: first.action_space(agent) for agent in self._agents})
        self._reader = Reader(name, self._agents, self._observations, self._actions.dims)
        state_dim = self._probe(first, global_state)
        self.spec = self._make_spec(name, horizon, state_dim)
        self._time = 0

    @property
    def is_foreign(self) -> bool:
        """See `VectorEnv.is_foreign`: the factory may be anybody's."""
        return True

    @property
    def can_render(self) -> bool:
        """See `VectorEnv.can_render`: True if the environment supports PettingZoo's `rgb_array`."""
        return self._drawn or self._arguments.get("render_mode") == "rgb_array"

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`; a copy receives the lowest 31 bits of its seed."""
        while len(self._copies) < len(seeds):
            self._copies.append(self._make(self._arguments | ({"render_mode": "rgb_array"} if self._drawn else {})))
        spec, n_choices = self.spec, self.spec.action_dim if self._has_legal else 0
        self._rows = Rows.empty(len(seeds), spec.n_agents, spec.observation_dim, n_choices, spec.state_dim)
        self._time = 0
        for episode, seed in enumerate(seeds.tolist()):
            answer = self._reader.read(self._copies[episode].reset(seed=seed & _SEED_BITS), self._time)
            if late := [agent for agent in self._agents if agent not in answer.observations]:
                refuse(self.spec.name, str(late[0]), self._time, "it joins later, which is not supported")
            self._look(episode, range(len(self._agents)), answer)
        return torch.from_numpy(self._rows.observations.copy())

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`; episodes that have ended keep their last state.

        Raises:
            ValueError: the shape is wrong, a value is not finite, or an index is outside an agent's choices.
            RuntimeError: there was no reset, or the episodes are over.
        """
        rows = self._started()
        if rows.over.all():
            raise RuntimeError("no episode is running: call reset before step")
        self._actions.check(actions, len(rows.over))
        translated = self._actions.translate(actions)
        self._time += 1
        rows.rewards[:] = 0.0
        for episode in np.flatnonzero(~rows.over).tolist():
            self._step_copy(episode, translated[episode])
        if self._time >= self.spec.horizon:
            rows.truncated |= ~rows.over
        return self._result(rows)

    def render(self, index: int) -> np.ndarray:
        """See `VectorEnv.render`.

        Raises:
            RuntimeError: there was no reset, or the environment cannot draw.
        """
        if self._rows is None:
            raise RuntimeError("nothing to render: call reset first")
        picture = self._copies[index].render() if self.can_render else None
        if not isinstance(picture, np.ndarray):
            raise RuntimeError(f"env={self.spec.name} cannot draw: {self._factory_name} has no render_mode 'rgb_array'")
        return np.ascontiguousarray(picture, dtype=np.uint8)

    def _step_copy(self, episode: int, translated: np.ndarray) -> None:
        copy, rows = self._copies[episode], self._started()
        there = [i for i, agent in enumerate(self._agents) if agent in copy.agents]
        # Some environments keep dead agents in their list and expect actions for them, too.
        given = {self._agents[i]: self._actions.pick(translated[i], i) for i in there}
        answer = self._reader.read(copy.step(given), self._time)
        ended = {}
        for i in there:
            if not rows.gone[episode, i]:
                agent = self._agents[i]
                ended[i] = Ended(
                    bool(answer.terminations.get(agent)), bool(answer.truncations.get(agent)), agent not in copy.agents
                )
                rows.rewards[episode, i] = self._reader.reward(answer, i, self._time, is_gone=any(ended[i]))
        self._look(episode, rows.end_step(episode, ended), answer)

    def _look(self, episode: int, present: Sequence[int], answer: Results) -> None:
        """Writes the observations of present agents; the others observe zeros and may only choose action 0."""
        rows = self._started()
        rows.observations[episode] = 0.0
        seen = [i for i in present if self._sees(episode, i, answer)]
        for i in seen:
            rows.observations[episode, i, : self._observations.dims[i]] = self._reader.observation(
                answer, i, self._time
            )
        if rows.legal is not None:
            rows.legal[episode] = False
            for i in seen:
                mask = self._reader.mask(answer, i, self._time)
                rows.legal[episode, i, : self._actions.dims[i]] = True if mask is None else mask
            rows.legal[episode, ~rows.legal[episode].any(axis=1), 0] = True
        elif self._actions.kind == "discrete":
            for i in seen:
                if self._reader.mask(answer, i, self._time) is not None:
                    what = "it has an action_mask, but at a reset no agent had one: give one in every step"
                    refuse(self.spec.name, str(self._agents[i]), self._time, what)
        if rows.state is not None:
            rows.state[episode] = self._reader.state(self._copies[episode].state(), self.spec.state_dim, self._time)

    def _sees(self, episode: int, agent: int, answer: Results) -> bool:
        """Whether an agent has an observation; only an agent that has just left may lack it."""
        name = self._agents[agent]
        if name not in answer.observations and name in self._copies[episode].agents:
            refuse(self.spec.name, str(name), self._time, "it is still present but has no observation")
        return name in answer.observations

    @staticmethod
    def _find(factory: str) -> Callable[..., Any]:
        """Finds the factory by name. A method, so that no `_target_` of a configuration can name it."""
        # Pictures are drawn off screen, and output of libraries must not mix with our answer.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            found: Callable[..., Any] = import_name("env.factory", factory)
        except ValueError as error:
            raise UserError(
                f"env.factory={factory} is not a dotted name such as mpe2.simple_spread_v3.parallel_env"
            ) from error
        return found

    def _make(self, arguments: Mapping[str, Any]) -> ParallelEnv:
        try:
            env = self._factory(**arguments)
        except (TypeError, ValueError, AssertionError) as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"env.arguments={dict(arguments)}: {self._factory_name} refuses them ({text})") from error
        if not isinstance(env, ParallelEnv) or not getattr(env, "possible_agents", None):
            kind = type(env).__name__
            raise UserError(f"env.factory={self._factory_name} makes a {kind}, not a ParallelEnv with possible_agents")
        return env

    def _probe(self, env: ParallelEnv, global_state: bool) -> int:
        """Starts an episode to determine whether actions are masked, and the size of the global state."""
        answer = self._reader.read(env.reset(seed=0), step=0)
        if late := [agent for agent in self._agents if agent not in answer.observations]:
            raise UserError(f"env.factory={self._factory_name}: agent {late[0]!r} joins later, which is not supported")
        masked = any(self._reader.mask(answer, i, step=0) is not None for i in range(len(self._agents)))
        padded = len(set(self._actions.dims)) > 1
        self._has_legal = self._actions.kind == "discrete" and (masked or padded)
        if not global_state:
            return 0
        try:
            return int(np.asarray(env.state()).size)
        except (NotImplementedError, AttributeError) as error:
            raise UserError(
                f"env.global_state=true, but {self._factory_name} has no state(); set it to false"
            ) from error

    def _code(self, package: str) -> dict[str, str | None]:
        """Identifies the environment's code: the installed version, or the sha256 of a module without one."""
        version = _version(package)
        file = getattr(sys.modules.get(self._factory_name.rpartition(".")[0]), "__file__", None)
        if version is not None or file is None or not Path(file).is_file():
            return {"version": version}
        return {"version": None, "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest()}

    def _make_spec(self, name: str, horizon: int, state_dim: int) -> EnvSpec:
        package = self._factory_name.partition(".")[0]
        recipe = {
            "family": "pettingzoo",
            "package": package,
            **self._code(package),
            "factory": self._factory_name,
            "arguments": {key: value for key, value in self._arguments.items() if key != "render_mode"},
            "agents": [str(agent) for agent in self._agents],
            "observations": self._observations.dims,
            "actions": self._actions.describe(),
            "state_dim": state_dim,
            "horizon": horizon,
        }
        dims = zip(self._agents, self._observations.dims, self._actions.dims, strict=True)
        return EnvSpec(
            name=name,
            agents=tuple(AgentSpec(str(agent), seen, acted) for agent, seen, acted in dims),
            action_kind=self._actions.kind,
            horizon=horizon,
            state_dim=state_dim,
            recipe=recipe,
        )


def _plain(value: Any) -> Any:
    """Converts a configuration's containers to dicts and lists, which factories and recipes need."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _version(package: str) -> str | None:
    """The version of the installed distribution; None for a module without a distribution."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
