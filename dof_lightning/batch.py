"""The batch of windows that loaders hand to algorithms, and the number of rows in a window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """The rows of an episode that an algorithm sees at once: T = history + horizon.

    Attributes:
        history: Hh, rows before the current one.
        horizon: H, rows from the current one on.
    """

    history: int
    horizon: int

    @property
    def length(self) -> int:
        """T, the number of rows."""
        return self.history + self.horizon


@dataclass
class EpisodeBatch:
    """A batch of windows: T = history + horizon rows of B episodes, plus the row after the last.

    The *current* row of a window has index `history` (Hh); rows before it are history. Before an episode's start its
    first row is repeated, after its end its last; `valid` marks the rows that are real. Padded dimensions of agents are
    zero.

    Attributes:
        observations: `[B, N, T+1, O]` float32.
        actions: `[B, N, T, A]` float32 in [-1, 1], or `[B, N, T]` int64 indices for discrete actions.
        rewards: `[B, N, T]` float32.
        terminated: `[B, T]` bool, the episode really ended here; nothing follows.
        truncated: `[B, T]` bool, a time limit cut the episode off here; the value of the next row still counts.
        return_to_go: `[B, N, T]` float32, sum_l discount^l r_{t+l} to the episode's end, unscaled.
        valid: `[B, T+1]` bool, rows inside the episode that were recorded.
        diffusion_mask: `[B, T]` bool, rows after the current one that a trajectory diffusion learns from.
        transition_mask: `[B, N, T]` bool, valid[t] * (valid[t+1] or terminated[t]) * alive: the rows for TD targets;
            whoever needs the next row in any case (inverse dynamics) must require valid[t+1] too.
        episode_id: `[B]` int64, the episode's original index in its dataset.
        t: `[B]` int64, the current row's time step within its episode.
        history: Hh, how many rows precede the current one.
        legal: `[B, N, T+1, A]` bool, legal discrete actions.
        state: `[B, T+1, S]` float32, the global state.
        alive: `[B, N, T+1]` bool.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    return_to_go: Tensor
    valid: Tensor
    diffusion_mask: Tensor
    transition_mask: Tensor
    episode_id: Tensor
    t: Tensor
    history: int = 0
    legal: Tensor | None = None
    state: Tensor | None = None
    alive: Tensor | None = None

    @property
    def size(self) -> int:
        """B, the number of windows."""
        return self.observations.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, for asynchronous transfer to a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: function(v) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)


def concatenate(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """Joins several batches of the same window into one."""
    first = batches[0]
    if len(batches) == 1:
        return first
    names = [field.name for field in fields(first) if isinstance(getattr(first, field.name), Tensor)]
    joined: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    return replace(first, **joined)
