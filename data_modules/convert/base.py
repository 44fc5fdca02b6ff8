"""The interface of importers, and the checks that all of them share."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from data_modules.storage.action_units import OURS, ActionUnits
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError
from dof_lightning.spec import IMPORTED_FAMILY, ActionKind, AgentSpec, EnvSpec

BLOCK_BYTES = 1 << 24  # size of the episodes that are converted at once


@dataclass(frozen=True)
class Layout:
    """The shapes and types of a source's arrays.

    Attributes:
        agents: the learned agents.
        action_kind: `continuous` or `discrete`.
        horizon: steps of the longest episode.
        state_dim: S, 0 if no global state is stored.
    """

    agents: tuple[AgentSpec, ...]
    action_kind: ActionKind
    horizon: int
    state_dim: int

    def to_spec(self, name: str, units: ActionUnits = OURS) -> EnvSpec:
        """Makes a spec of data without a playable world (train with `rollout=none`), whose actions were in `units`."""
        recipe = {
            "family": IMPORTED_FAMILY,
            "agents": [[agent.name, agent.observation_dim, agent.action_dim] for agent in self.agents],
            "action_kind": self.action_kind,
            "horizon": self.horizon,
        }
        if not units.is_ours:
            recipe["actions"] = units.describe(self.agents)
        return EnvSpec(f"{name}_imported", self.agents, self.action_kind, self.horizon, self.state_dim, recipe)


class EpisodeSource(ABC):
    """Episodes in another format, read a block at a time; opening one reads headers, not data.

    Attributes:
        location: file or folder, for messages.
        n_episodes: number of episodes.
        layout: shapes and types of the arrays.
        declared: the range of continuous actions that the source itself declares, None if it declares none.
        units: the assumed units of its continuous actions; set before episodes are read.
        notes: assumptions that the user should know about, one sentence each.
    """

    location: Path
    n_episodes: int
    layout: Layout
    declared: ActionUnits | None = None
    units: ActionUnits = OURS
    notes: tuple[str, ...] = ()

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that identifies this source, for the dataset's recipe; JSON values only."""

    @abstractmethod
    def blocks(self, first: int) -> Iterator[EpisodeRows]:
        """Yields episodes `first`, `first + 1`, ..., end to end, about `BLOCK_BYTES` at once.

        Blocks after the first end at the same episodes, whatever `first` is.

        Raises:
            UserError: a file contains an invalid value; the message names the file and the index.
        """


def digest(files: Sequence[Path], root: Path) -> str:
    """The sha256 of the names and contents of files, so that a changed source has another identity."""
    sha256, console = hashlib.sha256(), Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("hashing the source", total=sum(file.stat().st_size for file in files))
        for file in files:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            sha256.update(f"{file.relative_to(root)} {found}\n".encode())
            bars.advance(bar, file.stat().st_size)
    return sha256.hexdigest()


def load_array(file: Path) -> np.ndarray:
    """Opens a `.npy` file memory-mapped, without reading it.

    Raises:
        UserError: the file is missing, damaged, or contains Python objects or anything else than numbers.
    """
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
    except FileNotFoundError:
        raise UserError(f"{file} is missing; is source= the right folder, and complete?") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{file} is no plain .npy array ({error}); files with Python objects are never read") from None
    check_numbers(file, array)
    return array


def check_numbers(file: Path | str, array: Any) -> None:
    """Refuses text, dates and complex numbers, which other checks would not see or could not compare."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{file} has values of type {array.dtype}, expected are numbers; convert them")


def as_truth(file: Path | str, array: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Converts truth values, or numbers that are all 0 or 1, to bool.

    Args:
        file: the file, for messages.
        array: `[T, ...]`.
        first_row: row of the file that the array begins with.

    Raises:
        UserError: a value is another number, not finite, or no number; in text, even "False" would be true.
    """
    if array.dtype == bool:
        return array
    check_numbers(file, array)
    true, rows = array == 1, len(array) if array.ndim else 1
    wrong = ~(true | (array == 0)).reshape(rows, -1)
    if wrong.any():
        row = int(wrong.any(axis=1).argmax())
        value = array.reshape(rows, -1)[row][wrong[row]][0]
        raise UserError(f"{file}, row {first_row + row}: {value:g} is neither true (1) nor false (0); correct it")
    return true


def check_shape(file: Path | str, array: Any, expected: tuple[int | None, ...]) -> None:
    """Refuses an array of another shape; None stands for any size."""
    found = tuple(array.shape)
    if len(found) != len(expected) or any(e not in (None, f) for e, f in zip(expected, found, strict=False)):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise UserError(f"{file} has shape {list(found)}, expected [{wanted}]")


def check_finite(file: Path | str, array: np.ndarray, first_row: int) -> None:
    """Refuses NaN and infinity, naming the row (`first_row` is the array's first)."""
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise UserError(f"{file}, row {first_row + bad}: a value is not finite; repair or cut the file")


def check_choices(file: Path | str, actions: np.ndarray, first_row: int, choices: int) -> None:
    """Refuses discrete actions that are not among the choices."""
    wrong = (actions < 0) | (actions >= choices)
    if wrong.any():
        row, value = _first(actions, wrong)
        raise UserError(f"{file}, row {first_row + row}: action {value:g} is not within 0 to {choices - 1}")


def to_our_units(file: Path | str, actions: np.ndarray, first_row: int, units: ActionUnits) -> np.ndarray:
    """Maps continuous actions `[S, A]` or `[S, N, A]` to float32 in [-1, 1].

    Raises:
        UserError: an action is outside the range of its units.
    """
    ours = units.to_ours(actions)
    wrong = np.abs(ours) > 1 + 1e-5
    if wrong.any() and not units.are_any:
        row, value = _first(actions, wrong)
        allowed = "-1 to 1" if units.is_ours else str(units)
        raise UserError(
            f"{file}, row {first_row + row}: action {value:g} is not within {allowed}; specify which numbers mean the "
            f"lowest and the highest action: action_range=[<lowest>,<highest>]"
        )
    return ours


def _first(actions: np.ndarray, wrong: np.ndarray) -> tuple[int, float]:
    """Finds the first row with a wrong value, and that value."""
    flat, faults = actions.reshape(len(actions), -1), wrong.reshape(len(actions), -1)
    row = int(faults.any(axis=1).argmax())
    return row, float(flat[row][faults[row]][0])


def check_layout(layout: Layout, environment: EnvSpec, location: Path) -> None:
    """Refuses data that cannot come from an environment, before anything is written.

    Raises:
        UserError: names what differs.
    """
    described: tuple[Layout | EnvSpec, ...] = (layout, environment)
    theirs, ours = (
        {
            "agents": len(one.agents),
            "observation sizes": [agent.observation_dim for agent in one.agents],
            "action sizes": [agent.action_dim for agent in one.agents],
            "action kind": one.action_kind,
        }
        for one in described
    )
    wrong = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]
    wrong += [f"a state of {layout.state_dim} instead of {environment.state_dim}"] * (
        layout.state_dim not in (0, environment.state_dim)
    )
    wrong += [f"episodes of {layout.horizon} steps, at most {environment.horizon} are allowed"] * (
        layout.horizon > environment.horizon
    )
    if wrong:
        raise UserError(f"{location} does not fit env={environment.name}: {'; '.join(wrong)}; choose another env=")


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """Pads the last dimension with zeros."""
    missing = size - array.shape[-1]
    return array if missing == 0 else np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


def episodes_a_block(steps: int, row_bytes: int) -> int:
    """The number of episodes per block, given their number of steps; at least one."""
    return max(1, BLOCK_BYTES // (max(steps, 1) * max(row_bytes, 1)))
