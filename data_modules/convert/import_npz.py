"""User-defined episodes in one `.npz` file: padded arrays by the names of `Episodes`, actions in their own units."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.convert.base import (
    EpisodeSource,
    Layout,
    as_truth,
    check_choices,
    check_numbers,
    check_shape,
    digest,
    episodes_a_block,
    to_our_units,
)
from data_modules.storage.action_units import ActionUnits
from data_modules.storage.arrays import ROW_ARRAYS, EpisodeRows, Episodes
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind, AgentSpec, EnvSpec

REQUIRED = ("observations", "actions", "rewards", "terminated")
OPTIONAL = ("length", "state", "legal", "alive")
DESCRIBING = ("agents", "observation_dims", "action_dims", "action_low", "action_high")
_WITHOUT_AGENTS = ("terminated", "length", "state")


class NpzSource(EpisodeSource):
    """n episodes of N agents, padded to L steps; the file is held in memory.

    `observations [n, N, L+1, O]` (`[n, N, L, O]`: the observation after the last step is not known), `actions
    [n, N, L, A]`, or integers `[n, N, L]` for choices, `rewards [n, N, L]` or `[n, L]` of the team, `terminated [n]`.
    Optional: `length [n]`, `state [n, L+1, S]`, `legal [n, N, L+1, A]`, `alive [n, N, L+1]`, names
    `agents [N]`, and, if agents differ, `observation_dims [N]` and `action_dims [N]`. `action_low` and `action_high`
    (numbers, `[A]` or `[N, A]`) declare the units of actions.

    Args:
        path: the file.
        environment: the environment of the data, which then specifies names and sizes of agents; None takes those of
            the file.

    Raises:
        UserError: a key is missing or not known, or shapes do not fit together.
    """

    def __init__(self, path: Path, environment: EnvSpec | None = None) -> None:
        self.location = path
        self._arrays = _load(path)
        actions = self._arrays["actions"]
        kind: ActionKind = "continuous" if actions.ndim == 4 else "discrete"
        self._sees_ends = self._check(kind)
        self._arrays["terminated"] = as_truth(f"{path}: terminated", self._arrays["terminated"])
        self.n_episodes, n_agents, _, observation_dim = self._arrays["observations"].shape
        self._length = self._lengths(self.n_episodes, actions.shape[2])
        width = self._width(kind, environment)
        agents = self._agents(n_agents, width)
        if environment is not None and (n_agents, observation_dim, width) == (
            environment.n_agents,
            environment.observation_dim,
            environment.action_dim,
        ):
            self._check_names(environment)
            agents = environment.agents  # it specifies their names, and which dimensions are padding
        state = self._arrays["state"].shape[2] if "state" in self._arrays else 0
        if state == 0:
            self._arrays.pop("state", None)
        self.layout = Layout(agents, kind, int(self._length.max()), state)
        if kind == "discrete" and (given := [key for key in ("action_low", "action_high") if key in self._arrays]):
            raise UserError(
                f"{path}: {given[0]} is a range of numbers, but actions are choices [n, N, L]; leave it out"
            )
        if kind == "continuous":
            self.declared = self._declared()
            self.units = self.declared or self.units

    def identity(self) -> dict[str, Any]:
        """See `EpisodeSource.identity`."""
        return {"format": "npz", "files": digest([self.location], self.location.parent)}

    def blocks(self, first: int) -> Iterator[EpisodeRows]:
        """See `EpisodeSource.blocks`."""
        row_bytes = sum(array[0].nbytes for array in self._arrays.values() if array.ndim > 1) // self.layout.horizon
        size = episodes_a_block(self.layout.horizon, row_bytes)
        for start in range(0, self.n_episodes, size):
            begin, end = max(start, first), min(start + size, self.n_episodes)
            if begin < end:
                yield self._block(begin, end)

    def _block(self, begin: int, end: int) -> EpisodeRows:
        part = {name: self._arrays[name][begin:end] for name in (*REQUIRED, *OPTIONAL) if name in self._arrays}
        n_agents = len(self.layout.agents)
        if part["rewards"].ndim == 2:
            part["rewards"] = np.repeat(part["rewards"][:, None], n_agents, axis=1)
        floats = ("observations", "rewards", "state")
        part = {name: array.astype(np.float32) if name in floats else array for name, array in part.items()}
        part |= {"length": self._length[begin:end], "episode_id": np.arange(begin, end, dtype=np.int64)}
        if not self._sees_ends:
            rows = [name for name in ROW_ARRAYS if name in part]
            part |= {name: _with_last_row(part[name], part["length"], name) for name in rows}
            part["unseen_end"] = np.ones(end - begin, dtype=bool)
        rows_ = Episodes(**part).flatten()
        self._finish(rows_, begin)
        return rows_

    def _finish(self, rows: EpisodeRows, begin: int) -> None:
        """Checks all values that are not padding, and converts actions to our units."""
        where = f"{self.location}: episodes from {begin} on, end to end"
        for name in ("legal", "alive"):
            if (truth := rows.arrays().get(name)) is not None:
                setattr(rows, name, as_truth(f"{where}: {name}", truth))
        for name in ("observations", "actions", "rewards", "state"):
            array = rows.arrays().get(name)
            if array is not None and array.dtype.kind == "f":
                self._check_finite(name, array, rows.length + (name in ROW_ARRAYS), begin)
        if self.layout.action_kind == "continuous":
            units = self.units.for_agents(self.layout.agents)
            rows.actions = to_our_units(f"{where}: actions", rows.actions, 0, units)
        else:
            rows.actions = rows.actions.astype(np.int64)
            for i, agent in enumerate(self.layout.agents):
                check_choices(f"{where}: actions of {agent.name}", rows.actions[:, i], 0, agent.action_dim)

    def _check_finite(self, name: str, array: np.ndarray, counts: np.ndarray, begin: int) -> None:
        """Refuses NaN and infinity, naming episode, step and agent; `counts` are the episodes' rows in the array."""
        wrong = np.argwhere(~np.isfinite(array))
        if not len(wrong):
            return
        ends = np.cumsum(counts.astype(np.int64))
        episode = int(np.searchsorted(ends, wrong[0, 0], side="right"))
        step = int(wrong[0, 0] - ends[episode] + counts[episode])
        of_team = name in _WITHOUT_AGENTS or (name == "rewards" and self._arrays[name].ndim == 2)
        whose = "" if of_team else f", agent {self.layout.agents[wrong[0, 1]].name!r}"
        raise UserError(
            f"{self.location}: {name} of episode {begin + episode}, step {step}{whose}: a value is not finite; repair "
            "the array, or leave the episode out"
        )

    def _check(self, kind: ActionKind) -> bool:
        """Checks the arrays; returns whether the observations after the last steps are present."""
        arrays, seen = self._arrays, self._arrays["observations"]
        for name, array in arrays.items():
            if name != "agents":
                check_numbers(f"{self.location}: {name}", array)
            if name.endswith("_dims") and array.dtype.kind not in "iu":
                raise UserError(f"{self.location}: {name} have type {array.dtype}, expected are whole numbers [N]")
        check_shape(f"{self.location}: observations", seen, (None, None, None, None))
        actions = arrays["actions"]
        if kind == "discrete" and actions.dtype.kind not in "iu":
            raise UserError(
                f"{self.location}: actions have shape {list(actions.shape)} and type {actions.dtype}; expected are "
                "numbers [n, N, L, A], or whole numbers [n, N, L] for choices"
            )
        n, n_agents, rows, _ = seen.shape
        if n < 1 or n_agents < 1:
            raise UserError(f"{self.location}: observations are of {n} episodes and {n_agents} agents; at least 1 each")
        n_steps = actions.shape[2] if actions.ndim > 2 else 0
        if rows not in (n_steps, n_steps + 1) or n_steps < 1:
            raise UserError(
                f"{self.location}: observations have {rows} rows and actions {n_steps}; expected is one row more, or "
                "as many if the observation after the last step is not known"
            )
        shapes: dict[str, tuple[int | None, ...]] = {
            "actions": (n, n_agents, n_steps) + (None,) * (kind == "continuous"),
            "rewards": (n, n_steps) if arrays["rewards"].ndim == 2 else (n, n_agents, n_steps),
            "terminated": (n,),
            "length": (n,),
            "state": (n, rows, None),
            "legal": (n, n_agents, rows, None),
            "alive": (n, n_agents, rows),
            "agents": (n_agents,),
            "observation_dims": (n_agents,),
            "action_dims": (n_agents,),
        }
        for name, shape in shapes.items():
            if name in arrays:
                check_shape(f"{self.location}: {name}", arrays[name], shape)
        return bool(rows == n_steps + 1)

    def _width(self, kind: ActionKind, environment: EnvSpec | None) -> int:
        """A: the number of dimensions, or of choices."""
        if kind == "continuous":
            return int(self._arrays["actions"].shape[3])
        if "legal" in self._arrays:
            return int(self._arrays["legal"].shape[3])
        if "action_dims" in self._arrays:
            return int(self._arrays["action_dims"].max())
        if environment is not None:
            return environment.action_dim
        actions = self._arrays["actions"]
        n, _, n_steps = actions.shape
        taken = np.arange(n_steps) < self._lengths(n, n_steps)[:, None]  # what is behind an episode's end is anything
        return int(actions.max(where=taken[:, None], initial=0)) + 1

    def _lengths(self, n: int, n_steps: int) -> np.ndarray:
        length = self._arrays.get("length", np.full(n, n_steps))
        wrong = (length < 1) | (length > n_steps)
        if length.dtype.kind not in "iu" or wrong.any():
            episode = int(wrong.argmax())
            raise UserError(f"{self.location}: length of episode {episode} is {length[episode]}, allowed: 1-{n_steps}")
        return length.astype(np.int32)

    def _agents(self, n_agents: int, width: int) -> tuple[AgentSpec, ...]:
        names = self._arrays.get("agents", np.array([f"agent_{i}" for i in range(n_agents)]))
        sizes = []
        for key, most in (("observation_dims", self._arrays["observations"].shape[3]), ("action_dims", width)):
            found = self._arrays.get(key, np.full(n_agents, most))
            if found.min() < 1 or found.max() != most:
                raise UserError(f"{self.location}: the largest of {key} must be {most}, as in the arrays")
            sizes.append(found.tolist())
        return tuple(map(AgentSpec, map(str, names.tolist()), *sizes))

    def _check_names(self, environment: EnvSpec) -> None:
        """Refuses names other than the environment's, or in another order: rows would go to the wrong agents."""
        named = [str(name) for name in self._arrays.get("agents", ())]
        expected = [agent.name for agent in environment.agents]
        if named and named != expected:
            raise UserError(
                f"{self.location}: agents are {', '.join(named)}, but in {environment.name} {', '.join(expected)}; "
                "bring the arrays into that order, under these names"
            )

    def _declared(self) -> ActionUnits | None:
        ends = [self._arrays.get(key) for key in ("action_low", "action_high")]
        if all(end is None for end in ends):
            return None
        if any(end is None for end in ends):
            raise UserError(f"{self.location}: action_low and action_high come together; add the other")
        units = ActionUnits.of(*ends)
        shape = (len(self.layout.agents), self._arrays["actions"].shape[3])
        for size, whole in zip(units.low.shape, shape, strict=False):
            if units.low.ndim != 2 or size not in (1, whole):
                raise UserError(f"{self.location}: action_low and action_high must be numbers, [A] or [N, A] = {shape}")
        return ActionUnits(*(np.broadcast_to(end, shape) for end in (units.low, units.high))).for_agents(
            self.layout.agents
        )


def _with_last_row(array: np.ndarray, length: np.ndarray, name: str) -> np.ndarray:
    """Adds one row that repeats each episode's last."""
    time = 1 if name in _WITHOUT_AGENTS else 2
    longer = np.concatenate([array, array.take([-1], axis=time)], axis=time)
    episodes = np.arange(len(length))
    if time == 1:
        longer[episodes, length] = longer[episodes, length - 1]
    else:
        longer[episodes, :, length] = longer[episodes, :, length - 1]
    return longer


def _load(path: Path) -> dict[str, np.ndarray]:
    known = (*REQUIRED, *OPTIONAL, *DESCRIBING)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            arrays = {name: file[name] for name in file.files if name in known}
            strange = sorted(set(file.files) - set(known))
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, MemoryError, AttributeError) as error:
        raise UserError(
            f"source={path} is not an .npz file of plain arrays ({' '.join(str(error).split())}); write it with "
            "numpy.savez; files with Python objects are never read"
        ) from None
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise UserError(f"{path} has no {', '.join(missing)}; it needs {', '.join(REQUIRED)} (docs/guide/own_data.md)")
    if strange:
        raise UserError(f"{path} has unknown arrays: {', '.join(strange)}; known are {', '.join(known)}")
    return arrays
