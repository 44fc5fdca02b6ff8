"""Our shards as OMAR's folder of `.npy` files; the layout is described in `import_omar.py`."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_modules.storage.arrays import EpisodeRows
from data_modules.storage.manifest import DatasetManifest
from dof_lightning.errors import UserError


def export_omar(manifest: DatasetManifest, groups: Iterator[EpisodeRows], folder: Path) -> None:
    """Writes all episodes, given in order, to `seed_0_data/` in an existing folder.

    There is one file per agent and kind of array; agents that are not learned come last.

    Raises:
        UserError: actions are discrete, episodes differ in length, which OMAR's layout cannot express, or the
            observation after an episode's last step, which the layout requires, was not recorded.
    """
    spec = manifest.spec
    if spec.action_kind == "discrete":
        raise UserError(f"{manifest.location}: OMAR's layout holds continuous actions only; use format=vault")
    if manifest.n_steps != manifest.n_episodes * manifest.longest:
        raise UserError(f"{manifest.location}: OMAR's layout holds episodes of one length only; use format=vault")
    target = folder / "seed_0_data"
    target.mkdir()
    sizes = [(agent.observation_dim, agent.action_dim) for agent in spec.environment.agents]
    learned, extra = len(sizes), manifest.members.get("extra_observations")
    if extra is not None:
        sizes += [(extra.shape[1], manifest.members["extra_actions"].shape[1])] * extra.shape[0]
    files = [_Agent(target, i, manifest.n_steps, seen, acted) for i, (seen, acted) in enumerate(sizes)]
    start, length = 0, manifest.longest
    for rows in groups:
        if rows.unseen_end is not None and rows.unseen_end.any():
            raise UserError(
                f"{manifest.location}: OMAR's layout holds the observation after an episode's last step, which was not "
                "recorded; use format=vault"
            )
        if rows.terminated.any():
            raise UserError(
                f"{manifest.location}: {manifest.n_terminated} episodes really ended, but in OMAR's layout every end "
                "is a time limit; use format=vault"
            )
        end = start + rows.n_steps
        done = np.zeros((rows.n_episodes, length), dtype=bool)
        arrays = rows.arrays()
        for i, file in enumerate(files):
            kind, agent = ("", i) if i < learned else ("extra_", i - learned)
            seen, taken, earned = (arrays[f"{kind}{name}"][:, agent] for name in ("observations", "actions", "rewards"))
            file.write(start, end, seen.reshape(rows.n_episodes, length + 1, -1), taken, earned, done)
        start = end
    for file in files:
        file.close()


class _Agent:
    """The five files of one agent, filled in order; they are mapped, so nothing is held in memory."""

    def __init__(self, folder: Path, agent: int, n_rows: int, observation_dim: int, action_dim: int) -> None:
        self._sizes = observation_dim, action_dim
        shapes: dict[str, tuple[int, ...]] = {"rews": (n_rows,), "dones": (n_rows,), "acs": (n_rows, action_dim)}
        shapes |= dict.fromkeys(("obs", "next_obs"), (n_rows, observation_dim))
        self._maps = {
            kind: _reserve(folder / f"{kind}_{agent}.npy", bool if kind == "dones" else np.float32, shape)
            for kind, shape in shapes.items()
        }

    def write(
        self, start: int, end: int, seen: np.ndarray, taken: np.ndarray, earned: np.ndarray, done: np.ndarray
    ) -> None:
        """Writes rows start to end: observations `[n, L+1, O]`, actions, rewards and `[n, L]` flags."""
        observation_dim, action_dim = self._sizes
        self._maps["obs"][start:end] = seen[:, :-1, :observation_dim].reshape(end - start, -1)
        self._maps["next_obs"][start:end] = seen[:, 1:, :observation_dim].reshape(end - start, -1)
        self._maps["acs"][start:end] = taken[:, :action_dim]
        self._maps["rews"][start:end] = earned
        self._maps["dones"][start:end] = done.reshape(-1)

    def close(self) -> None:
        """Flushes all files to the disk."""
        for array in self._maps.values():
            array.flush()
        self._maps = {}


def _reserve(file: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """Maps an array with its disk space reserved, so that a full disk is an OSError now and not a signal later."""
    np.lib.format.open_memmap(file, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return np.lib.format.open_memmap(file, "r+")
