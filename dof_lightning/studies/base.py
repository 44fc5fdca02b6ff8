"""The base of a study: axes whose product makes its cells, a measurement per cell, and a report on all cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.config.command_line import split_tail
from dof_lightning.errors import UserError
from dof_lightning.training.several import first_repeated, folder_name, key_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axes = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Plan:
    """One run that a study needs.

    Attributes:
        labels: the label on each axis.
        seed: the run's seed.
        overrides: its differences from the experiment, `key=value`.
    """

    labels: dict[str, str]
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return folder_name(self.labels.values(), self.seed)

    def __str__(self) -> str:
        return ", ".join([*(f"{axis} {label}" for axis, label in self.labels.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Cell:
    """A finished run.

    Attributes:
        labels: the label on each axis.
        seed: the run's seed.
        results: its `results.json`, with the wall time of all its processes.
        measured: the result of `Study.measure`.
        stopped_early: whether `trainer.max_time` ended it before `trainer.max_steps`.
    """

    labels: dict[str, str]
    seed: int
    results: dict[str, Any]
    measured: dict[str, Any]
    stopped_early: bool = False


@dataclass(frozen=True)
class Report:
    """A study's report: a table of texts or numbers, a figure if there is one, and numbers for its `results.json`."""

    columns: list[str]
    rows: list[list[Any]]
    figure: Figure | None = None
    results: dict[str, Any] = field(default_factory=dict)


class Study(ABC):
    """Several runs of one experiment, measured and reported together.

    Args:
        axes: by axis and label, the overrides; the cells are the product of the axes.
        seeds: every cell is run with each of these seeds.

    Raises:
        UserError: an axis or the seeds are empty, or a label's value is not a list of overrides.
    """

    def __init__(self, axes: Axes | None = None, seeds: Sequence[int] = ()) -> None:
        if not seeds or not axes or not all(axes.values()):
            raise UserError("study.axes and study.seeds must not be empty: a study needs cells")
        for axis, of in axes.items():
            for label, tails in of.items():
                if isinstance(tails, str) or not all("=" in str(tail) for tail in tails):
                    raise UserError(f"study.axes.{axis}.{label}={tails} must be a list of overrides, [key=value, ...]")
        self.axes = {axis: {str(label): list(tails) for label, tails in of.items()} for axis, of in axes.items()}
        self.seeds = list(seeds)

    def plans(self) -> list[Plan]:
        """The cells' runs, in the order of the axes; seeds change fastest, then the labels of the last axis.

        Raises:
            UserError: two axes set one key differently, or two cells would share a folder.
        """
        combinations = product(*([(axis, label) for label in labels] for axis, labels in self.axes.items()))
        plans = [
            Plan(dict(labels), seed, self._overrides(dict(labels))) for labels in combinations for seed in self.seeds
        ]
        if twice := first_repeated(plan.name for plan in plans):
            raise UserError(f"study.axes: two cells would share the folder {twice}; choose other labels or seeds")
        return plans

    @property
    def keys(self) -> set[str]:
        """The keys that the axes set."""
        return {key_of(tail) for labels in self.axes.values() for tails in labels.values() for tail in tails}

    def _overrides(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        chosen: dict[str, str] = {}
        for axis, label in labels.items():
            for key, value in map(split_tail, self.axes[axis][label]):
                if chosen.setdefault(key, value) != value:
                    raise UserError(f"study.axes.{axis}: {label} sets {key}={value}, another axis sets {chosen[key]}")
        return tuple(f"{key}={value}" for key, value in chosen.items())

    @abstractmethod
    def measure(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
        """Measures a cell's last checkpoint beyond its results; returns numbers, texts and lists of them."""

    @abstractmethod
    def report(self, cells: Sequence[Cell]) -> Report:
        """Makes the table and the figure of all cells, given in the order of `plans`."""


def by_labels(cells: Sequence[Cell]) -> Iterator[tuple[dict[str, str], list[Cell]]]:
    """Groups cells that differ in the seed only."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.labels.values()), []).append(cell)
    for group in groups.values():
        yield group[0].labels, group


def execution(cells: Sequence[Cell]) -> str:
    """Text for a table on how a group's agents acted: alone, as one, with others' information, or uncertified."""
    last = cells[0].results["last"]
    if last.get("execution") == "centralized":
        return "centralized"
    passed = all(cell.results["last"]["certificate"]["passed"] for cell in cells)
    notes = ["decentralized" if passed else "NOT CERTIFIED"]
    notes += [f"shared seed of {last['shared_seeds']}"] if last.get("shared_seeds") else []
    notes += ["told rewards"] if last["certificate"].get("observes_rewards") else []
    return ", ".join(notes)
