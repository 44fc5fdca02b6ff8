"""MADIFF's folders of StarCraft and MaMuJoCo: `obs, actions, rewards, path_lengths` as flat `.npy` arrays.

StarCraft has `legals` (and `states`) beside them, MaMuJoCo vectors `[T, N, A]` as actions. Names, and agent ids in
front of observations: github.com/zbzhu99/madiff, diffuser/datasets/smac_env.py and mamujoco.py. These files mark every
path's last step as terminal; here a path of the environment's full length counts as cut by the time limit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.convert.base import EpisodeSource, Layout, as_truth, check_finite, check_shape, digest, load_array
from data_modules.convert.flat import ENDS, Cuts, Timeline, find_identities
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind, AgentSpec, EnvSpec

_FILES = {"observations": "obs", "legal": "legals", "actions": "actions", "rewards": "rewards", "state": "states"}
_OPTIONAL = ("legal", "state")


class MadiffSource(EpisodeSource):
    """One map's or robot's folder.

    Args:
        path: folder of `obs.npy` and the other files.
        environment: the environment of the data; None means that it is inferred, agent ids included.

    Raises:
        UserError: a file is missing, or shapes do not fit together.
    """

    def __init__(self, path: Path, environment: EnvSpec | None = None) -> None:
        self.location = path
        _check_folder(path)
        self._files = {n: path / f"{f}.npy" for n, f in _FILES.items()}
        self._files = {n: f for n, f in self._files.items() if n not in _OPTIONAL or f.exists()}
        self._arrays = {name: load_array(file) for name, file in self._files.items()}
        if "state" in self._arrays and self._arrays["state"].shape[1:] == (0,):
            del self._arrays["state"]  # its file stays part of the identity
        length = _lengths(path / "path_lengths.npy")
        n_rows = int(length.sum())
        n_agents = self._check(n_rows)
        wanted = None if environment is None else environment.observation_dim
        ids = find_identities(np.array(self._arrays["observations"][: min(n_rows, 256)]), wanted)
        size = self._arrays["observations"].shape[2] - (n_agents if ids else 0)
        kind: ActionKind = "continuous" if self._are_vectors() else "discrete"
        choices = self._count_choices(kind, environment)
        agents = tuple(AgentSpec(f"agent_{i}", size, choices) for i in range(n_agents))
        state = self._arrays["state"].shape[1] if "state" in self._arrays else 0
        self.layout = Layout(agents, kind, int(length.max()), state)
        self.n_episodes = len(length)
        horizon = self.layout.horizon if environment is None else environment.horizon
        self._cuts = Cuts(np.cumsum(length) - length, length, length < horizon)
        if environment is None:
            longest = int((length == horizon).sum())
            self.notes = (
                f"{path} does not specify which episodes a time limit cut: the {longest:,} of {len(length):,} with the "
                f"most steps, {horizon}, count as truncated, all others as terminated; env= specifies the time limit",
            )
        n_choices = choices if kind == "discrete" else None
        self._timeline = Timeline(path, self._read, tuple(self._arrays), (size,) * n_agents, n_choices, ids)

    def identity(self) -> dict[str, Any]:
        """See `EpisodeSource.identity`."""
        files = [*self._files.values(), self.location / "path_lengths.npy"]
        return {"format": "madiff", "files": digest(files, self.location), "ends": ENDS}

    def blocks(self, first: int) -> Iterator[EpisodeRows]:
        """See `EpisodeSource.blocks`."""
        return self._timeline.blocks(self._cuts, first, self.units.for_agents(self.layout.agents))

    def _check(self, n_rows: int) -> int:
        """Checks the arrays and returns the number of agents."""
        observations = self._arrays["observations"]
        check_shape(self._files["observations"], observations, (n_rows, None, None))
        n_agents = observations.shape[1]
        shapes: dict[str, tuple[int | None, ...]] = {"actions": (n_rows, n_agents), "legal": (n_rows, n_agents, None)}
        shapes["state"] = (n_rows, None)
        if self._are_vectors():
            shapes["actions"] = (n_rows, n_agents, None)
        for name, shape in shapes.items():
            if name in self._arrays and not (name == "actions" and self._arrays[name].shape == (n_rows, n_agents, 1)):
                check_shape(self._files[name], self._arrays[name], shape)
        if self._arrays["rewards"].shape not in ((n_rows,), (n_rows, n_agents)):
            check_shape(self._files["rewards"], self._arrays["rewards"], (n_rows, n_agents))
        return n_agents

    def _are_vectors(self) -> bool:
        """Whether actions are continuous (MaMuJoCo), `[T, N, A]`."""
        actions = self._arrays["actions"]
        return "legal" not in self._arrays and actions.dtype.kind == "f" and actions.ndim == 3

    def _count_choices(self, kind: ActionKind, environment: EnvSpec | None) -> int:
        """Returns the number of discrete choices, or of dimensions of continuous actions."""
        actions = self._arrays["actions"]
        if kind == "continuous":
            return int(actions.shape[2])
        if "legal" in self._arrays:
            return int(self._arrays["legal"].shape[2])
        if environment is not None:
            return environment.action_dim
        check_finite(self._files["actions"], actions, 0)
        return int(actions.max()) + 1

    def _read(self, name: str, first: int, last: int) -> np.ndarray:
        rows = np.array(self._arrays[name][first:last])
        if name == "actions" and rows.ndim == 3 and not self._are_vectors():
            rows = rows[..., 0]
        return as_truth(self._files[name], rows, first) if name == "legal" else rows


def _lengths(file: Path) -> np.ndarray:
    """Reads each path's number of steps: `[n]` int64.

    Raises:
        UserError: the file does not hold whole numbers `[n]` of at least 1, and one of them at least.
    """
    length = np.array(load_array(file))
    check_shape(file, length, (None,))
    if not len(length):
        raise UserError(f"{file} is empty: there are no episodes; is source= the right folder?")
    wrong = ~((length >= 1) & (length == np.floor(length)) & np.isfinite(length))
    if wrong.any():
        entry = int(wrong.argmax())
        raise UserError(f"{file}, entry {entry}: {length[entry]:g} steps; a path has a whole number of them, 1 or more")
    return length.astype(np.int64)


def _check_folder(path: Path) -> None:
    """Refuses MADIFF's other layout, one folder per seed with files per agent, by its name."""
    seeds = [path, *(folder for folder in path.glob("*") if folder.is_dir())]
    if not (path / "obs.npy").exists() and any((folder / "obs_0.npy").exists() for folder in seeds):
        raise UserError(
            f"source={path} has files per agent (obs_0.npy, ...), as of MADIFF's particle tasks and HalfCheetah-v2; "
            "format=madiff reads obs.npy, actions.npy, rewards.npy and path_lengths.npy of all agents; try format=omar "
            "with horizon=<steps of an episode>, which needs next_obs_0.npy, ... as well"
        )
