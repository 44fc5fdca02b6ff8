"""One flat timeline of rows that is cut into episodes: what vaults and MADIFF's StarCraft folders have in common."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_modules.convert.base import check_actions, check_finite, episodes_a_block
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError


@dataclass(frozen=True)
class Cuts:
    """Where episodes lie in a timeline.

    Attributes:
        start: `[n]` int64, each one's first row.
        length: `[n]` int64, its rows, which are its steps.
        terminated: `[n]` bool.
    """

    start: np.ndarray
    length: np.ndarray
    terminated: np.ndarray

    @classmethod
    def at_ends(cls, terminated: np.ndarray, over: np.ndarray) -> "Cuts":
        """From two `[T]` bool; rows after the last end are an episode that was cut.

        Args:
            terminated: rows that really end an episode.
            over: rows that end one for any reason.
        """
        ends = np.flatnonzero(over) + 1
        if len(over) and (not len(ends) or ends[-1] < len(over)):
            ends = np.append(ends, len(over))
        start = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        return cls(start, ends - start, terminated[ends - 1])


@dataclass(frozen=True)
class Timeline:
    """How to read a timeline, and what its rows hold.

    Attributes:
        location: for messages.
        read: from an array's name and a range of rows to these rows; names are those of `Episodes`.
        names: the arrays that are there.
        sizes: `[N]`, each agent's observation size.
        n_choices: A of discrete actions; None for continuous ones.
        identity_columns: where one-hot agent ids stand in an observation: `front`, `back` or None.
    """

    location: Path
    read: Callable[[str, int, int], np.ndarray]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    n_choices: int | None
    identity_columns: str | None

    def blocks(self, cuts: Cuts, first: int) -> Iterator[EpisodeRows]:
        """Episodes from `first` on; the observation after the last step is not stored and is taken to be the last."""
        longest = int(cuts.length.max())
        sample = {name: self.read(name, 0, 1) for name in self.names}
        size = episodes_a_block(longest, sum(array.nbytes for array in sample.values()))
        for start in range(0, len(cuts.start), size):
            begin, end = max(start, first), min(start + size, len(cuts.start))
            if begin < end:
                yield self._block(cuts, begin, end)

    def _block(self, cuts: Cuts, begin: int, end: int) -> EpisodeRows:
        first, last = int(cuts.start[begin]), int(cuts.start[end - 1] + cuts.length[end - 1])
        arrays = {name: self.read(name, first, last) for name in self.names}
        length = cuts.length[begin:end]
        arrays["observations"] = self._observations(arrays["observations"], first)
        self._check(arrays, first)
        times = np.ones(int(length.sum()), dtype=np.int64)
        times[np.cumsum(length) - 1] = 2  # each episode's last row
        rows = np.repeat(np.arange(len(times)), times)
        per_row = {name: arrays[name][rows] for name in ("observations", "legal", "state", "alive") if name in arrays}
        rewards = arrays["rewards"].astype(np.float32)
        if rewards.ndim == 1:
            rewards = np.broadcast_to(rewards[:, None], (len(rewards), len(self.sizes)))
        return EpisodeRows(
            **per_row,
            actions=arrays["actions"].astype(np.int64 if self.n_choices is not None else np.float32),
            rewards=rewards,
            terminated=cuts.terminated[begin:end],
            length=length.astype(np.int32),
            episode_id=np.arange(begin, end, dtype=np.int64),
        )

    def _observations(self, observations: np.ndarray, first: int) -> np.ndarray:
        """Without agent ids, and zero where an agent has no such dimension (-inf is how some pad)."""
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
        """Takes agent ids off, after a look whether they are agent ids in every row."""
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
        check_actions(f"{self.location}: actions", arrays["actions"], first, self.n_choices)
        actions = arrays["actions"]
        if self.n_choices is not None and actions.dtype.kind == "f" and (actions != np.round(actions)).any():
            row = first + int((actions != np.round(actions)).reshape(len(actions), -1).any(axis=1).argmax())
            raise UserError(f"{self.location}: actions, row {row}: a choice that is no whole number")


def without_identities(observations: np.ndarray, n_agents: int, where: str | None) -> np.ndarray:
    """`[T, N, O + N]` to `[T, N, O]`."""
    if where is None:
        return observations
    return observations[..., n_agents:] if where == "front" else observations[..., :-n_agents]


def find_identities(observations: np.ndarray, wanted: int | None) -> str | None:
    """Whether some rows `[T, N, D]` carry one-hot agent ids, `front` or `back`, and `wanted` (if known) is D - N."""
    n_agents = observations.shape[1]
    if n_agents == 1 or (wanted is not None and observations.shape[2] != wanted + n_agents):
        return None
    identity = np.eye(n_agents)
    if (observations[..., :n_agents] == identity).all():
        return "front"
    return "back" if (observations[..., -n_agents:] == identity).all() else None


def observation_sizes(observations: np.ndarray) -> tuple[int, ...]:
    """`[N]`, how many leading dimensions of rows `[T, N, D]` are not -inf for each agent."""
    padded = np.logical_and.reduce(np.isneginf(observations), axis=0)
    return tuple(int(np.flatnonzero(~row).max(initial=-1)) + 1 for row in padded)
