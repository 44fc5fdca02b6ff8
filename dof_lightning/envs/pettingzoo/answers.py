"""Strict parsing of a PettingZoo environment's results at reset and every step: invalid results are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from dof_lightning.envs.handover import refuse
from dof_lightning.envs.pettingzoo.spaces import ObservationVectors, find_mask

_RESET = ("observations", "infos")
_STEP = ("observations", "rewards", "terminations", "truncations", "infos")


class Results(NamedTuple):
    """The results of a reset or step, keyed by agent; parts that are missing (at reset) are empty.

    Attributes:
        observations, rewards, terminations, truncations, infos: as in PettingZoo.
    """

    observations: Mapping[Any, Any]
    rewards: Mapping[Any, Any]
    terminations: Mapping[Any, Any]
    truncations: Mapping[Any, Any]
    infos: Mapping[Any, Any]


@dataclass(frozen=True)
class Reader:
    """Parses an environment's results.

    Args:
        environment: the environment's name, for messages.
        agents: the agents' names, in order.
        observations: the conversion of the agents' observations to vectors.
        choices: A_i of each agent, the length of its action mask.
    """

    environment: str
    agents: list[Any]
    observations: ObservationVectors
    choices: list[int]

    def read(self, answer: Any, step: int) -> Results:
        """Reads the parts of the result of `reset` (step 0) or `step`; None for `infos` means that there are none.

        Raises:
            UserError: it is not the tuple of dictionaries that PettingZoo's parallel API specifies, or it names an
                unknown agent.
        """
        wanted = _STEP if step else _RESET
        if not isinstance(answer, tuple) or len(answer) != len(wanted):
            found = f"a tuple of {len(answer)}" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
            call = "step" if step else "reset"
            refuse(self.environment, None, step, f"{call} returned {found}, but it must return ({', '.join(wanted)})")
        parts: dict[str, Mapping[Any, Any]] = {name: {} for name in _STEP}
        for name, part in zip(wanted, answer, strict=True):
            parts[name] = {} if part is None and name == "infos" else part
            if not isinstance(parts[name], Mapping):
                what = f"{name} are a {type(part).__name__}, they must be a dictionary with an entry per agent"
                refuse(self.environment, None, step, what)
        if strangers := [agent for agent in parts["observations"] if agent not in self.agents]:
            what = f"has an observation but is not among possible_agents ({', '.join(map(str, self.agents))})"
            refuse(self.environment, str(strangers[0]), step, what)
        return Results(**parts)

    def observation(self, results: Results, agent: int, step: int) -> np.ndarray:
        """An agent's observation, `[O_i]` float32.

        Raises:
            UserError: its size differs from its space's, or it is not an array of numbers.
        """
        given, dim = results.observations[self.agents[agent]], self.observations.dims[agent]
        try:
            vector = self.observations.flatten(given)
        except (TypeError, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._refuse(agent, step, f"the observation is not an array of numbers ({reason})")
        if len(vector) != dim:
            self._refuse(agent, step, f"the observation has {len(vector)} numbers, but its observation_space has {dim}")
        return vector

    def reward(self, results: Results, agent: int, step: int, is_gone: bool) -> float:
        """An agent's reward; an agent that left in this step may have none.

        Raises:
            UserError: the reward is missing, or is not one number.
        """
        name = self.agents[agent]
        if name not in results.rewards:
            if is_gone:
                return 0.0
            self._refuse(agent, step, "it is still present but has no reward")
        try:
            given = np.asarray(results.rewards[name], dtype=np.float64)
        except (TypeError, ValueError):
            given = np.full((), np.nan)
        if given.size != 1:
            what = f"the reward has shape {list(given.shape)}, it must be one number: wrap the environment"
            self._refuse(agent, step, what)
        if not (np.abs(given) <= np.finfo(np.float32).max).all():  # NaN compares false
            self._refuse(agent, step, f"the reward is {results.rewards[name]!r}, it must be a finite 32-bit number")
        return float(given.reshape(()))

    def mask(self, results: Results, agent: int, step: int) -> np.ndarray | None:
        """An agent's legal actions, `[A_i]` bool; None if the environment provides none.

        Raises:
            UserError: its length differs from the number of choices.
        """
        name = self.agents[agent]
        info = results.infos.get(name)
        found = find_mask(results.observations[name], info if isinstance(info, Mapping) else {})
        if found is not None and len(found) != self.choices[agent]:
            what = f"the action_mask has {len(found)} entries, but there are {self.choices[agent]} choices"
            self._refuse(agent, step, what)
        return found

    def state(self, given: Any, dim: int, step: int) -> np.ndarray:
        """`[S]` float32, the global state.

        Raises:
            UserError: its size differs from that at the first reset, or it is not an array of numbers.
        """
        try:
            vector = np.asarray(given, dtype=np.float32).ravel()
        except (TypeError, ValueError):
            vector = np.zeros(0, dtype=np.float32)
        if len(vector) != dim:
            refuse(self.environment, None, step, f"state() has {len(vector)} numbers, but had {dim} at the first reset")
        return vector

    def _refuse(self, agent: int, step: int, what: str) -> NoReturn:
        refuse(self.environment, str(self.agents[agent]), step, what)
