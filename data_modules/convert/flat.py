"""Flat timelines of rows that are cut into episodes, as in vaults and MADIFF's StarCraft folders."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_modules.convert.base import check_choices, check_finite, episodes_a_block, to_our_units
from data_modules.storage.action_units import ActionUnits
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError

GOES_ON, CUT, ENDED = 0, 1, 2  # a row's mark for an agent: no end, a time limit, its real end
ENDS = "unseen"  # for recipes: version 0.1.0 took the repeated last row for an observation
_ROWS_AT_ONCE = 1 << 16  # of such marks


@dataclass(frozen=True)
class Cuts:
    """The places of episodes in a timeline.

    Attributes:
        start: `[n]` int64, each episode's first row.
        length: `[n]` int64, each episode's number of rows, which are its steps.
        terminated: `[n]` bool.
        agents_leave: whether some agent ends before its episode does.
    """

    start: np.ndarray
    length: np.ndarray
    terminated: np.ndarray
    agents_leave: bool = False

    @classmethod
    def where_all_are_over(cls, read: Callable[[int, int], np.ndarray], n_rows: int) -> "Cuts | None":
        """Cuts episodes where their last agent ends; rows after the last end are an episode that was cut off.

        An agent may be marked once, when it ends, or in every row from then on.

        Args:
            read: maps a range of rows to each agent's marks `[T, N]` int8: `GOES_ON`, `CUT` or `ENDED`.
            n_rows: number of rows of the timeline.

        Returns:
            the cuts, or None if no episode ends anywhere.
        """
        end, terminated, agents_leave = _ends_from(read, n_rows)
        starts, row = [], 0
        while row < n_rows:
            starts.append(row)
            row = int(end[row]) + 1
        if starts == [0] and end[0] == n_rows:
            return None
        start = np.array(starts, dtype=np.int64)
        return cls(start, np.minimum(end[start], n_rows - 1) + 1 - start, terminated[start], agents_leave)


def _ends_from(read: Callable[[int, int], np.ndarray], n_rows: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """For an episode that starts in each row `[T]`: its last row (T if there is none), and whether it terminates there.

    Rows are read backwards, a part at a time; each agent's next mark is carried from part to part.
    """
    end, terminated = np.empty(n_rows, dtype=np.int64), np.empty(n_rows, dtype=bool)
    following: np.ndarray | None = None  # [N], twice the row of an agent's next mark, plus 1 if that is a time limit
    agents_leave = False
    for first in reversed(range(0, n_rows, _ROWS_AT_ONCE)):
        last = min(first + _ROWS_AT_ONCE, n_rows)
        marked = read(first, last)
        over = marked != GOES_ON
        agents_leave |= bool((over.any(axis=1) & ~over.all(axis=1)).any())
        marks = np.where(over, 2 * np.arange(first, last)[:, None] + (marked == CUT), 2 * n_rows + 1)
        if following is not None:
            marks[-1] = np.minimum(marks[-1], following)
        marks = np.minimum.accumulate(marks[::-1], axis=0)[::-1]
        following = marks[0]
        end[first:last] = marks.max(axis=1) // 2
        terminated[first:last] = (marks % 2 == 0).all(axis=1)
    return end, terminated, agents_leave


@dataclass(frozen=True)
class Timeline:
    """The access to a timeline, and the contents of its rows.

    Attributes:
        location: the file or folder, for messages.
        read: maps an array's name and a range of rows to these rows; names are those of `Episodes`, and `ended`
            (each agent's marks, see `Cuts`) if agents leave before their episode ends.
        names: the arrays that are there.
        sizes: `[N]`, each agent's observation size.
        n_choices: A for discrete actions; None for continuous ones.
        identity_columns: the position of one-hot agent ids in an observation: `front`, `back` or None.
    """

    location: Path
    read: Callable[[str, int, int], np.ndarray]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    n_choices: int | None
    identity_columns: str | None

    def blocks(self, cuts: Cuts, first: int, units: ActionUnits) -> Iterator[EpisodeRows]:
        """Yields episodes from `first` on; their last observations are not stored: see `unseen_end`."""
        longest = int(cuts.length.max())
        sample = {name: self.read(name, 0, 1) for name in self.names}
        size = episodes_a_block(longest, sum(array.nbytes for array in sample.values()))
        for start in range(0, len(cuts.start), size):
            begin, end = max(start, first), min(start + size, len(cuts.start))
            if begin < end:
                yield self._block(cuts, begin, end, units)

    def _block(self, cuts: Cuts, begin: int, end: int, units: ActionUnits) -> EpisodeRows:
        first, last = int(cuts.start[begin]), int(cuts.start[end - 1] + cuts.length[end - 1])
        arrays = {name: self.read(name, first, last) for name in self.names}
        length = cuts.length[begin:end]
        arrays["observations"] = self._observations(arrays["observations"], first)
        self._check(arrays, first)
        times = np.ones(int(length.sum()), dtype=np.int64)
        times[np.cumsum(length) - 1] = 2  # each episode's last row
        rows = np.repeat(np.arange(len(times)), times)
        terminated = cuts.terminated[begin:end]
        if "ended" in arrays:
            arrays["alive"] = _alive(arrays["ended"], length)
        per_row = {name: arrays[name][rows] for name in ("observations", "legal", "state", "alive") if name in arrays}
        if "ended" in arrays:  # an agent that ends in the step in which a time limit cuts the others is gone after it
            steps, left = np.cumsum(length) - 1, ~terminated
            per_row["alive"][np.cumsum(length + 1)[left] - 1] &= arrays["ended"][steps[left]] != ENDED
        rewards = arrays["rewards"].astype(np.float32)
        if rewards.ndim == 1:
            rewards = np.broadcast_to(rewards[:, None], (len(rewards), len(self.sizes)))
        return EpisodeRows(
            **per_row,
            actions=self._actions(arrays["actions"], first, units),
            rewards=rewards,
            terminated=terminated,
            unseen_end=np.ones(end - begin, dtype=bool),
            length=length.astype(np.int32),
            episode_id=np.arange(begin, end, dtype=np.int64),
        )

    def _observations(self, observations: np.ndarray, first: int) -> np.ndarray:
        """Removes agent ids, and sets dimensions that an agent does not have to zero (some sources pad with -inf)."""
        observations = self._without_identities(observations, first)
        observations = np.array(observations, dtype=np.float32)
        for agent, size in enumerate(self.sizes):
            padding = observations[:, agent, size:]
            if padding.size and not np.isin(padding, (0.0, -np.inf)).all():
                row = first + int(np.flatnonzero(~np.isin(padding, (0.0, -np.inf)).all(axis=1))[0])
                raise UserError(f"{self.location}, row {row}: agent {agent} has {size} observations, but more are set")
            observations[:, agent, size:] = 0.0
        return observations[:, :, : max(self.sizes)]

    def _without_identities(self, observations: np.ndarray, first: int) -> np.ndarray:
        """Removes agent ids, and checks that they are agent ids in every row."""
        count = len(self.sizes)
        if self.identity_columns is None:
            return observations
        columns = slice(0, count) if self.identity_columns == "front" else slice(-count, None)
        wrong = (observations[..., columns] != np.eye(count)).any(axis=(1, 2))
        if wrong.any():
            row = first + int(wrong.argmax())
            raise UserError(
                f"{self.location}, row {row}: {count} columns look like one-hot agent ids at first and not here; "
                "name the environment (env=) whose observations these are"
            )
        return without_identities(observations, count, self.identity_columns)

    def _check(self, arrays: Mapping[str, np.ndarray], first: int) -> None:
        for name in ("observations", "rewards", "state"):
            if name in arrays:
                check_finite(f"{self.location}: {name}", arrays[name], first)
        check_finite(f"{self.location}: actions", arrays["actions"].astype(np.float64), first)

    def _actions(self, actions: np.ndarray, first: int, units: ActionUnits) -> np.ndarray:
        """Actions in [-1, 1], or choices."""
        where = f"{self.location}: actions"
        if self.n_choices is None:
            return to_our_units(where, actions, first, units)
        check_choices(where, actions, first, self.n_choices)
        if actions.dtype.kind == "f" and (actions != np.round(actions)).any():
            row = first + int((actions != np.round(actions)).reshape(len(actions), -1).any(axis=1).argmax())
            raise UserError(f"{where}, row {row}: a choice is not a whole number")
        return actions.astype(np.int64)


def _alive(ended: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`[S, N]` bool: whether an agent has not ended before a row, in the episodes of `[n]` lengths, end to end."""
    over = (ended != GOES_ON).astype(np.int64)
    before = np.cumsum(over, axis=0) - over
    alive: np.ndarray = before == np.repeat(before[np.cumsum(length) - length], length, axis=0)
    return alive


def without_identities(observations: np.ndarray, n_agents: int, where: str | None) -> np.ndarray:
    """Removes agent ids: `[T, N, O + N]` to `[T, N, O]`."""
    if where is None:
        return observations
    return observations[..., n_agents:] if where == "front" else observations[..., :-n_agents]


def find_identities(observations: np.ndarray, wanted: int | None) -> str | None:
    """Finds one-hot agent ids in rows `[T, N, D]`: `front`, `back` or None; D - N must be `wanted`, if known."""
    n_agents = observations.shape[1]
    bare = observations.shape[2] - n_agents
    if n_agents == 1 or bare < 1 or (wanted is not None and bare != wanted):
        return None
    identity = np.eye(n_agents)
    if (observations[..., :n_agents] == identity).all():
        return "front"
    return "back" if (observations[..., -n_agents:] == identity).all() else None


def observation_sizes(observations: np.ndarray) -> tuple[int, ...]:
    """`[N]`, the number of leading dimensions of rows `[T, N, D]` that are not -inf, per agent."""
    padded = np.logical_and.reduce(np.isneginf(observations), axis=0)
    return tuple(int(np.flatnonzero(~row).max(initial=-1)) + 1 for row in padded)
