"""Blocks of complete episodes as numpy arrays: padded when collected, end to end when stored."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

ROW_ARRAYS = ("observations", "legal", "alive", "state", "extra_observations")
STEP_ARRAYS = ("actions", "rewards", "extra_actions", "extra_rewards")
EPISODE_ARRAYS = ("length", "episode_id", "terminated", "unseen_end")
WITHOUT_AGENTS = ("state",)
TRUTHS = ("terminated", "unseen_end", "legal", "alive")

_ACTION_TOLERANCE = 1e-5


class DataFault(UserError, ValueError):
    """Episodes that contradict the environment's spec or each other; in a user's own data, the user can fix it."""


@dataclass
class _EpisodeArrays:
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    length: np.ndarray
    episode_id: np.ndarray
    unseen_end: np.ndarray | None = None
    state: np.ndarray | None = None
    legal: np.ndarray | None = None
    alive: np.ndarray | None = None
    extra_observations: np.ndarray | None = None
    extra_actions: np.ndarray | None = None
    extra_rewards: np.ndarray | None = None

    @property
    def n_episodes(self) -> int:
        """The number of episodes in the block."""
        return len(self.length)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are present, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass
class Episodes(_EpisodeArrays):
    """n complete episodes padded to the longest one, L steps: the form that collectors return.

    Episode e has `length[e]` steps and `length[e] + 1` observations, each stored once. Entries after an episode's end
    are ignored; our padding repeats the last row and action, with zero rewards. An episode that ends without
    `terminated` was cut by a time limit.

    Attributes:
        observations: `[n, N, L+1, O]` float32; padded dimensions are zero.
        actions: `[n, N, L, A]` float32 in [-1, 1], or `[n, N, L]` int64 for discrete actions.
        rewards: `[n, N, L]` float32.
        terminated: `[n]` bool, the last step really ended the episode.
        length: `[n]` int32, at least 1.
        episode_id: `[n]` int64, the episode's original index in its dataset.
        unseen_end: `[n]` bool, the observation after the last step was not recorded: its row, which repeats the one
            before, is padding. Left out if all were recorded.
        state: `[n, L+1, S]` float32.
        legal: `[n, N, L+1, A]` bool.
        alive: `[n, N, L+1]` bool.
        extra_observations: `[n, M, L+1, O']` float32, observations of M agents that are not learned (prey).
        extra_actions: `[n, M, L, A']` float32 or `[n, M, L]` int64, their actions.
        extra_rewards: `[n, M, L]` float32.
    """

    def flatten(self) -> "EpisodeRows":
        """The same episodes end to end, without padding."""
        longest = self.rewards.shape[2]
        step_mask = np.arange(longest) < self.length[:, None]
        row_mask = np.arange(longest + 1) <= self.length[:, None]
        masks = dict.fromkeys(ROW_ARRAYS, row_mask) | dict.fromkeys(STEP_ARRAYS, step_mask)
        flat = {
            name: (array if name in WITHOUT_AGENTS else array.swapaxes(1, 2))[masks[name]] if name in masks else array
            for name, array in self.arrays().items()
        }
        return EpisodeRows(**flat)


@dataclass
class EpisodeRows(_EpisodeArrays):
    """n complete episodes end to end, as in shards: R = sum(length + 1) rows, S = sum(length) steps.

    Attributes:
        observations: `[R, N, O]`; likewise `legal [R, N, A]`, `alive [R, N]`, `state [R, S]`.
        actions: `[S, N, A]` or `[S, N]`; likewise `rewards [S, N]` and the arrays of agents that are not learned.
        length: `[n]`; likewise `terminated`, `episode_id`, `unseen_end`. Types are those of `Episodes`.
    """

    @property
    def n_steps(self) -> int:
        """S, the number of steps."""
        return len(self.rewards)

    def select(self, episodes: np.ndarray) -> Self:
        """Selects some episodes, in the order of `episodes` `[m]`."""
        length = self.length[episodes].astype(np.int64)
        rows = _ragged_index(_starts(self.length + 1)[episodes], length + 1)
        steps = _ragged_index(_starts(self.length)[episodes], length)
        index = dict.fromkeys(ROW_ARRAYS, rows) | dict.fromkeys(STEP_ARRAYS, steps)
        return type(self)(**{name: array[index.get(name, episodes)] for name, array in self.arrays().items()})

    def slice(self, first: int, last: int) -> Self:
        """The episodes `first` to `last - 1`, as views."""
        ends = np.concatenate(([0], np.cumsum(self.length, dtype=np.int64)))
        steps = slice(int(ends[first]), int(ends[last]))
        rows = slice(steps.start + first, steps.stop + last)
        index = dict.fromkeys(ROW_ARRAYS, rows) | dict.fromkeys(STEP_ARRAYS, steps)
        arrays = {name: array[index.get(name, slice(first, last))] for name, array in self.arrays().items()}
        return type(self)(**arrays)

    def padded(self) -> Episodes:
        """The same episodes padded to the longest one."""
        longest = int(self.length.max())
        time = np.arange(longest + 1)
        rows = _starts(self.length + 1)[:, None] + np.minimum(time, self.length[:, None])
        steps = _starts(self.length)[:, None] + np.minimum(time[:-1], self.length[:, None] - 1)
        index = dict.fromkeys(ROW_ARRAYS, rows) | dict.fromkeys(STEP_ARRAYS, steps)
        arrays = {name: array[index[name]] if name in index else array for name, array in self.arrays().items()}
        behind_the_end = time[:-1] >= self.length[:, None]
        for name in ("rewards", "extra_rewards"):
            if name in arrays:
                arrays[name][behind_the_end] = 0.0
        agents_first = set(index) - set(WITHOUT_AGENTS)
        return Episodes(**{name: a.swapaxes(1, 2) if name in agents_first else a for name, a in arrays.items()})


def concatenate(blocks: Sequence[EpisodeRows]) -> EpisodeRows:
    """Joins several blocks into one."""
    if len(blocks) == 1:
        return blocks[0]
    return EpisodeRows(**{name: np.concatenate([b.arrays()[name] for b in blocks]) for name in blocks[0].arrays()})


def returns_to_go(rewards: np.ndarray, length: np.ndarray, discount: float) -> np.ndarray:
    """R_t = sum_l discount^l r_{t+l} to the end of each episode: `[S, N]` float32, accumulated in float64.

    Args:
        rewards: `[S, N]`, episodes end to end.
        length: `[n]`, summing to S.
        discount: gamma.
    """
    result = rewards.astype(np.float64)
    start = _starts(length)
    for t in range(int(length.max()) - 2, -1, -1):
        step = start[length > t + 1] + t
        result[step] += discount * result[step + 1]
    return result.astype(np.float32)


def find_fault(rows: EpisodeRows, environment: EnvSpec) -> str | None:
    """Describes in words what contradicts the environment's spec; None if nothing does.

    Shapes, types and finiteness are checked by the shard format; this checks the meaning of the values.
    """
    length = rows.length
    if length.min() < 1 or length.max() > environment.horizon:
        return f"lengths are {length.min()} to {length.max()}, allowed are 1 to {environment.horizon} (the horizon)"
    for name in TRUTHS:
        array = rows.arrays().get(name)
        if array is not None and array.dtype != bool and not ((array == 0) | (array == 1)).all():
            return f"{name}: a value is neither true (1) nor false (0)"
    if np.any(rows.observations[:, ~environment.observation_mask().numpy()]):
        return "observations: padded dimensions are not zero"
    return _find_action_fault(rows.actions, environment)


def _find_action_fault(actions: np.ndarray, environment: EnvSpec) -> str | None:
    if environment.action_kind == "discrete":
        choices = np.array([agent.action_dim for agent in environment.agents])
        return "actions: an index outside its agent's choices" if np.any((actions < 0) | (actions >= choices)) else None
    if np.any(actions[:, ~environment.action_mask().numpy()]):
        return "actions: padded dimensions are not zero"
    if np.abs(actions).max() > 1 + _ACTION_TOLERANCE:
        low, high = actions.min(), actions.max()
        return (
            f"actions: the largest magnitude is {np.abs(actions).max():.4g}, allowed is 1; they are from {low:.4g} to "
            f"{high:.4g}: specify which numbers mean the lowest and the highest action (action_range)"
        )
    return None


def _starts(counts: np.ndarray) -> np.ndarray:
    """The start of each run of `counts[e]` entries."""
    return np.cumsum(counts, dtype=np.int64) - counts


def _ragged_index(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenates, over e, the `counts[e]` numbers from `starts[e]` on."""
    within = np.arange(counts.sum()) - np.repeat(_starts(counts), counts)
    return np.repeat(starts, counts) + within
