"""Conversion of PettingZoo's spaces to ours: padded vectors in, actions in [-1, 1] or indices out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from torch import Tensor

from dof_lightning.envs.base import check_continuous, check_discrete
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind

OBSERVATION, ACTION_MASK = "observation", "action_mask"  # PettingZoo's names in a dictionary observation

Spaces = Mapping[str, Space]


class ObservationVectors:
    """Flattens agents' observations to float32 vectors.

    Args:
        spaces: one per agent: `Box` of any shape, or `Dict` with `observation` and `action_mask`.

    Attributes:
        dims: O_i of each agent.

    Raises:
        UserError: a space is neither a `Box` nor such a `Dict`.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.dims = [int(np.prod(_observation_box(agent, space).shape)) for agent, space in spaces.items()]

    def flatten(self, observation: Any) -> np.ndarray:
        """Flattens one observation to `[O_i]` float32, without the action mask."""
        values = observation[OBSERVATION] if isinstance(observation, Mapping) else observation
        return np.asarray(values, dtype=np.float32).ravel()


def _observation_box(agent: str, space: Space) -> Box:
    inner = space.spaces.get(OBSERVATION) if isinstance(space, Dict) else space
    if not isinstance(inner, Box):
        raise UserError(
            f"env.factory: agent {agent!r} observes {space}; only Box, or Dict with `{OBSERVATION}` (a Box) and "
            f"`{ACTION_MASK}`, can be read: wrap the environment"
        )
    if not np.prod(inner.shape):
        raise UserError(f"env.factory: agent {agent!r} observes {space}, which has no numbers; add one, e.g. a zero")
    return inner


class ActionMap(ABC):
    """Converts our actions to the environment's.

    Attributes:
        kind: `continuous` or `discrete`.
        dims: A_i of each agent.
    """

    kind: ActionKind
    dims: list[int]

    @abstractmethod
    def check(self, actions: Tensor, n_episodes: int) -> None:
        """Refuses invalid actions.

        Raises:
            ValueError: the actions have a wrong shape, are not finite, or are outside an agent's choices.
        """

    @abstractmethod
    def translate(self, actions: Tensor) -> np.ndarray:
        """Converts all agents' actions to the environment's units, still padded: `[E, N, ...]`."""

    @abstractmethod
    def pick(self, translated: np.ndarray, agent: int) -> Any:
        """Returns agent `agent`'s action for its environment, from its row of `translate`."""

    @abstractmethod
    def describe(self) -> list[Any]:
        """The recipe's description of the actions: one entry per agent, JSON values only."""


class BoxActions(ActionMap):
    """Maps [-1, 1] affinely to the range of each dimension.

    Args:
        spaces: one finite floating point `Box` per agent.

    Raises:
        UserError: a range is infinite, of integers, or a single point.
    """

    kind = "continuous"

    def __init__(self, spaces: Mapping[str, Box]) -> None:
        for agent, space in spaces.items():
            _check_box(agent, space)
        self._boxes = list(spaces.values())
        self.dims = [int(np.prod(box.shape)) for box in self._boxes]
        self._low, self._high = (np.zeros((len(self.dims), max(self.dims))) for _ in range(2))
        for i, (box, dim) in enumerate(zip(self._boxes, self.dims, strict=True)):
            self._low[i, :dim], self._high[i, :dim] = box.low.ravel(), box.high.ravel()

    def check(self, actions: Tensor, n_episodes: int) -> None:
        """See `ActionMap.check`: `[E, N, A]` finite."""
        check_continuous(actions, (n_episodes, *self._low.shape))

    def translate(self, actions: Tensor) -> np.ndarray:
        """See `ActionMap.translate`; values outside [-1, 1] are clipped."""
        share = 0.5 * (actions.detach().cpu().double().clamp(-1.0, 1.0).numpy() + 1.0)
        return self._low + share * (self._high - self._low)

    def pick(self, translated: np.ndarray, agent: int) -> np.ndarray:
        """See `ActionMap.pick`; rounding to the space's type never leaves its range."""
        box = self._boxes[agent]
        values = translated[: self.dims[agent]].reshape(box.shape).astype(box.dtype)
        return np.clip(values, box.low, box.high)

    def describe(self) -> list[Any]:
        """See `ActionMap.describe`."""
        return [
            {"shape": list(b.shape), "low": b.low.ravel().tolist(), "high": b.high.ravel().tolist()}
            for b in self._boxes
        ]


class DiscreteActions(ActionMap):
    """Maps indices from 0 to the environment's choices, whose first number may differ.

    Args:
        spaces: one `Discrete` per agent.
    """

    kind = "discrete"

    def __init__(self, spaces: Mapping[str, Discrete]) -> None:
        self.dims = [int(space.n) for space in spaces.values()]
        self._starts = np.array([int(space.start) for space in spaces.values()])

    def check(self, actions: Tensor, n_episodes: int) -> None:
        """See `ActionMap.check`: `[E, N]` integers, each among its agent's choices."""
        check_discrete(actions, (n_episodes, len(self.dims)))
        if bool(((actions < 0) | (actions >= actions.new_tensor(self.dims))).any()):
            raise ValueError(f"a discrete action is outside its agent's choices ({self.dims})")

    def translate(self, actions: Tensor) -> np.ndarray:
        """See `ActionMap.translate`."""
        return actions.detach().cpu().numpy() + self._starts

    def pick(self, translated: np.ndarray, agent: int) -> int:
        """See `ActionMap.pick`."""
        return int(translated)

    def describe(self) -> list[Any]:
        """See `ActionMap.describe`."""
        return [{"choices": n, "start": start} for n, start in zip(self.dims, self._starts.tolist(), strict=True)]


def make_action_map(spaces: Spaces) -> ActionMap:
    """Builds the map for the agents' action spaces.

    Raises:
        UserError: they are neither all `Box` with finite ranges nor all `Discrete`.
    """
    boxes = {agent: space for agent, space in spaces.items() if isinstance(space, Box)}
    if len(boxes) == len(spaces):
        return BoxActions(boxes)
    choices = {agent: space for agent, space in spaces.items() if isinstance(space, Discrete)}
    if len(choices) == len(spaces):
        return DiscreteActions(choices)
    listed = ", ".join(f"{agent}: {space}" for agent, space in spaces.items())
    raise UserError(f"env.factory: actions must be all Box or all Discrete, got {listed}: wrap the environment")


def _check_box(agent: str, box: Box) -> None:
    if not np.issubdtype(box.dtype, np.floating):
        raise UserError(f"env.factory: agent {agent!r} acts in {box} of integers; wrap it to Discrete or to floats")
    if not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
        raise UserError(
            f"env.factory: agent {agent!r} acts in {box}, whose range is infinite, so [-1, 1] cannot be mapped to it: "
            "wrap the environment with finite bounds"
        )
    if not (np.prod(box.shape) and (box.low < box.high).all()):
        raise UserError(
            f"env.factory: agent {agent!r} acts in {box}, with a dimension of equal bounds: leave that dimension out"
        )


def find_mask(observation: Any, info: Mapping[str, Any]) -> np.ndarray | None:
    """Finds an agent's legal actions, `[A_i]` bool, in its observation, else in its info; None if there are none."""
    found = observation.get(ACTION_MASK) if isinstance(observation, Mapping) else None
    found = info.get(ACTION_MASK) if found is None else found
    return None if found is None else np.asarray(found, dtype=bool).ravel()
