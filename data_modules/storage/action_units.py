"""Units of actions: the ranges of other sources, and ours from -1 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ActionUnits:
    """The range of continuous actions that becomes [-1, 1], affinely.

    Attributes:
        low: `[N, A]` float64, one per agent and dimension, or `[1, 1]` for all of them.
        high: likewise; if it equals `low`, nothing can be chosen and actions become 0.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, low: Any, high: Any) -> Self:
        """Makes units from numbers, or from arrays that broadcast to `[N, A]`.

        Raises:
            UserError: they are not finite, do not fit together, or `low` is above `high`.
        """
        try:
            both = np.broadcast_arrays(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise UserError(f"action_range: {low} and {high} are not lowest and highest actions ({error})") from None
        lowest, highest = (np.atleast_2d(part) for part in both)
        if not np.isfinite([lowest, highest]).all() or (lowest > highest).any():
            raise UserError(f"action_range: lowest actions {low} must be finite and not above the highest {high}")
        return cls(lowest, highest)

    @property
    def is_ours(self) -> bool:
        """Whether actions are in [-1, 1] already, so that no conversion is needed."""
        return bool((self.low == -1).all() and (self.high == 1).all())

    @property
    def are_any(self) -> bool:
        """Whether nothing is known about the units."""
        return self is AS_THEY_ARE

    def of_agent(self, agent: int) -> "ActionUnits":
        """The units of one agent, as `[1, A]` for its actions `[S, A]`; [-1, 1] if it is not described."""
        if len(self.low) == 1:
            return self
        return ActionUnits(self.low[agent, None], self.high[agent, None]) if agent < len(self.low) else OURS

    def to_ours(self, actions: np.ndarray) -> np.ndarray:
        """Maps actions `[..., N, A]` to [-1, 1] as float32; values outside the range stay outside."""
        if self.is_ours or self.are_any:
            return actions.astype(np.float32)
        low, high = (part[..., : actions.shape[-1]] for part in (self.low, self.high))
        width = high - low
        mapped = 2 * (actions - low) / np.where(width == 0, 1, width) - 1
        return np.where(width == 0, 0.0, mapped).astype(np.float32)

    def covers(self, other: "ActionUnits") -> bool:
        """Whether this range contains the other one."""
        slack = _TOLERANCE * np.maximum(self.high - self.low, 1)
        return bool((other.low >= self.low - slack).all() and (other.high <= self.high + slack).all())

    def equals(self, other: "ActionUnits") -> bool:
        """Whether the two ranges are the same, up to rounding."""
        return self.covers(other) and other.covers(self)

    def for_agents(self, agents: Sequence[AgentSpec]) -> "ActionUnits":
        """The units as `[N, A]`, with padding left as it is."""
        if self.are_any:
            return self
        shape = len(agents), max(agent.action_dim for agent in agents)
        padding = np.arange(shape[1]) >= np.array([[agent.action_dim] for agent in agents])
        low, high = (np.broadcast_to(part, shape) for part in (self.low, self.high))
        return ActionUnits(np.where(padding, -1.0, low), np.where(padding, 1.0, high))

    def describe(self, agents: Sequence[AgentSpec]) -> list[Any]:
        """The recipe's description: one entry per agent, as for PettingZoo worlds; JSON values only."""
        whole = self.for_agents(agents)
        low, high = whole.low.tolist(), whole.high.tolist()
        return [
            {"low": low[i][: agent.action_dim], "high": high[i][: agent.action_dim]} for i, agent in enumerate(agents)
        ]

    def __str__(self) -> str:
        """The outermost numbers, for messages; without [-1, 1] (as of padding) if there are others."""
        differs = (self.low != -1) | (self.high != 1)
        shown = differs if differs.any() else ~differs
        return f"[{self.low[shown].min():g}, {self.high[shown].max():g}]"


OURS = ActionUnits.of(-1.0, 1.0)
AS_THEY_ARE = ActionUnits(np.full((1, 1), -np.inf), np.full((1, 1), np.inf))  # units of actions that are only inspected


def units_of(environment: EnvSpec) -> ActionUnits:
    """The units in which an environment's own package takes actions; [-1, 1] if it takes them as they are.

    See `EnvSpec.action_units`; padding counts as [-1, 1].
    """
    low, high = (np.full((environment.n_agents, environment.action_dim), end) for end in (-1.0, 1.0))
    for i, agent in enumerate(environment.agents):
        declared = environment.action_units(i)
        if declared is not None and "low" in declared:
            low[i, : agent.action_dim], high[i, : agent.action_dim] = declared["low"], declared["high"]
    return ActionUnits(low, high)
