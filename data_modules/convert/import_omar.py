"""OMAR's folders of `.npy` files, which MADIFF and DoF use for the particle tasks as well.

`<env>/<quality>/seed_{0..4}_data/{obs,acs,rews,next_obs,dones}_{i}.npy`, i over agents, the prey last (facts:
github.com/ling-pan/OMAR, github.com/zbzhu99/madiff).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.convert.base import (
    EpisodeSource,
    Layout,
    as_truth,
    check_finite,
    check_shape,
    digest,
    episodes_a_block,
    load_array,
    pad,
    to_our_units,
)
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec

KINDS = ("obs", "acs", "rews", "next_obs", "dones")
EPISODE_LENGTH = 25


@dataclass(frozen=True)
class _Folder:
    """One seed's arrays, mapped: one per kind and agent."""

    path: Path
    arrays: Mapping[str, list[np.ndarray]]
    n_episodes: int

    def file(self, kind: str, agent: int) -> Path:
        return self.path / f"{kind}_{agent}.npy"


class OmarSource(EpisodeSource):
    """Episodes of fixed length, cut by the time limit; agents after the learned ones are kept as extra agents.

    Args:
        path: a folder of `seed_*_data` folders, or one of them.
        learned: N, number of learned agents; None means all.
        horizon: steps of an episode.

    Raises:
        UserError: a file is missing, or shapes do not fit together.
    """

    def __init__(self, path: Path, learned: int | None = None, horizon: int = EPISODE_LENGTH) -> None:
        self.location, self._horizon = path, horizon
        folders = [path] if (path / "obs_0.npy").exists() else sorted(path.glob("seed_*_data"), key=_number)
        if not folders:
            raise UserError(f"source={path}: it contains neither obs_0.npy nor seed_*_data folders; name OMAR's folder")
        self._folders = [_open(folder, horizon) for folder in folders]
        first = self._folders[0].arrays
        n_agents = len(first["obs"])
        self._learned = n_agents if learned is None else learned
        if self._learned > n_agents:
            raise UserError(f"{path} holds {n_agents} agents, the environment has {self._learned}; choose another env=")
        for folder in self._folders[1:]:
            for kind in ("obs", "acs"):
                found, expected = ([array.shape[1:] for array in arrays[kind]] for arrays in (folder.arrays, first))
                if found != expected:
                    where = self._folders[0].path
                    raise UserError(f"{folder.path}: {kind} files have sizes {found}, those of {where} have {expected}")
        self._sizes = [array.shape[1] for array in first["obs"]]
        self._action_sizes = [array.shape[1] for array in first["acs"]]
        names = [f"agent_{i}" for i in range(self._learned)]
        agents = tuple(map(AgentSpec, names, self._sizes, self._action_sizes))
        self.layout = Layout(agents, "continuous", horizon, 0)
        self.n_episodes = sum(folder.n_episodes for folder in self._folders)

    def identity(self) -> dict[str, Any]:
        """See `EpisodeSource.identity`."""
        files = [
            folder.file(kind, agent)
            for folder in self._folders
            for kind in KINDS
            for agent in range(len(folder.arrays["obs"]))
        ]
        return {"format": "omar", "files": digest(files, self.location), "episode_length": self._horizon}

    def blocks(self, first: int) -> Iterator[EpisodeRows]:
        """See `EpisodeSource.blocks`."""
        row_bytes = 4 * (2 * sum(self._sizes) + sum(self._action_sizes))
        size, before = episodes_a_block(self._horizon, row_bytes), 0
        for folder in self._folders:
            for start in range(0, folder.n_episodes, size):
                end = min(start + size, folder.n_episodes)
                begin = max(start, first - before)
                if begin < end:
                    ids = np.arange(before + begin, before + end)
                    yield self._read(folder, begin, end, ids)
            before += folder.n_episodes

    def _read(self, folder: _Folder, start: int, end: int, ids: np.ndarray) -> EpisodeRows:
        """Reads episodes start to end of one folder."""
        agents, extra = range(self._learned), range(self._learned, len(self._sizes))
        parts = {i: self._read_agent(folder, i, start, end) for i in (*agents, *extra)}
        arrays = _stack([parts[i] for i in agents])
        if extra:
            arrays |= {f"extra_{name}": array for name, array in _stack([parts[i] for i in extra]).items()}
        for agent in (*agents, *extra):
            self._check_ends(folder, agent, start, end)
        self._check_length(folder, start, end)
        return EpisodeRows(
            **arrays,
            terminated=np.zeros(end - start, dtype=bool),  # these tasks end by their time limit only
            length=np.full(end - start, self._horizon, dtype=np.int32),
            episode_id=ids.astype(np.int64),
        )

    def _read_agent(self, folder: _Folder, agent: int, start: int, end: int) -> dict[str, np.ndarray]:
        """`observations [R, O]`, `actions [S, A]`, `rewards [S]` of one agent."""
        horizon, rows = self._horizon, slice(start * self._horizon, end * self._horizon)
        part = {kind: np.array(folder.arrays[kind][agent][rows], dtype=np.float32) for kind in KINDS[:4]}
        for kind, array in part.items():
            check_finite(folder.file(kind, agent), array, rows.start)
        units = self.units.of_agent(agent)  # environments have no ranges for agents that are not learned
        actions = to_our_units(folder.file("acs", agent), part["acs"], rows.start, units)
        now = part["obs"].reshape(end - start, horizon, -1)
        after = part["next_obs"].reshape(now.shape)
        different = np.flatnonzero((after[:, :-1] != now[:, 1:]).any(axis=(1, 2)))
        if len(different):
            raise UserError(
                f"{folder.file('next_obs', agent)}, episode {start + different[0]}: the next observation is not the "
                f"following row of obs_{agent}.npy; are episodes {horizon} steps long (horizon=)?"
            )
        observations = np.concatenate([now, after[:, -1:]], axis=1).reshape(-1, now.shape[2])
        return {"observations": observations, "actions": actions, "rewards": part["rews"].reshape(-1)}

    def _check_length(self, folder: _Folder, start: int, end: int) -> None:
        """Refuses a `horizon=` that cuts longer episodes into parts: each part's observations continue in the next."""
        last = np.arange(start + 1, min(end, folder.n_episodes - 1) + 1) * self._horizon - 1
        goes_on, moves = np.ones(len(last), dtype=bool), np.zeros(len(last), dtype=bool)
        for seen, after in zip(folder.arrays["obs"], folder.arrays["next_obs"], strict=True):
            following = after[last]
            goes_on &= (following == seen[last + 1]).all(axis=1)
            moves |= (following != seen[last]).any(axis=1)  # if nothing ever moves, equal rows mean nothing
        found = np.flatnonzero(goes_on & moves)
        if 3 * len(found) >= len(last) > 0:
            raise UserError(
                f"{folder.file('next_obs', 0)}, row {last[found[0]]}: the observations after {self._horizon} steps are "
                f"those that the next episode starts with, here and {len(found) - 1} times more, so episodes are "
                "longer than that; set horizon= to their true length"
            )

    def _check_ends(self, folder: _Folder, agent: int, start: int, end: int) -> None:
        """Accepts `done` at an episode's last step, as its time limit; anywhere else the layout is another one."""
        horizon = self._horizon
        marks = np.array(folder.arrays["dones"][agent][start * horizon : end * horizon])
        done = as_truth(folder.file("dones", agent), marks, start * horizon).reshape(-1, horizon)
        early = np.argwhere(done[:, :-1])
        if len(early):
            row = (start + int(early[0, 0])) * horizon + int(early[0, 1])
            raise UserError(
                f"{folder.file('dones', agent)}, row {row}: an episode ends before its last step; OMAR's episodes are "
                f"{horizon} steps long (horizon=)"
            )


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stacks agents side by side, smaller ones padded with zeros."""
    stacked = {}
    for name in ("observations", "actions"):
        size = max(part[name].shape[1] for part in parts)
        stacked[name] = np.stack([pad(part[name], size) for part in parts], axis=1)
    return stacked | {"rewards": np.stack([part["rewards"] for part in parts], axis=1)}


def _open(folder: Path, horizon: int) -> _Folder:
    n_agents = 1 + max(
        (_number(Path(file.stem)) for kind in KINDS for file in folder.glob(f"{kind}_*.npy")), default=-1
    )
    arrays = {kind: [load_array(folder / f"{kind}_{i}.npy") for i in range(n_agents)] for kind in KINDS}
    if n_agents:
        check_shape(folder / "obs_0.npy", arrays["obs"][0], (None, None))
    n_rows = len(arrays["obs"][0]) if n_agents else 0
    if n_rows == 0 or n_rows % horizon:
        raise UserError(f"{folder}/obs_0.npy has {n_rows} rows, not whole episodes of {horizon} steps (horizon=)")
    for i in range(n_agents):
        check_shape(folder / f"obs_{i}.npy", arrays["obs"][i], (n_rows, None))
        check_shape(folder / f"next_obs_{i}.npy", arrays["next_obs"][i], arrays["obs"][i].shape)
        check_shape(folder / f"acs_{i}.npy", arrays["acs"][i], (n_rows, None))
        for kind in ("rews", "dones"):
            if arrays[kind][i].shape not in ((n_rows,), (n_rows, 1)):
                raise UserError(f"{folder}/{kind}_{i}.npy has shape {list(arrays[kind][i].shape)}, expected [{n_rows}]")
    return _Folder(folder, arrays, n_rows // horizon)


def _number(folder: Path) -> int:
    digits = re.search(r"\d+", folder.name)
    return int(digits.group()) if digits else -1
