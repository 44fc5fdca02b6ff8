"""Collection of runs from run folders and results stores into groups that differ in the seed only."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dof_lightning.errors import UserError
from dof_lightning.report.finding import runs_in
from dof_lightning.report.naming import name_apart
from dof_lightning.report.store import Point, Record, identity


@dataclass(frozen=True)
class Group:
    """Runs of one method on one dataset.

    Attributes:
        environment, dataset: options of the groups.
        label: the variant if there is one, else the algorithm; with the keys in which settings differ, see `naming`.
        algorithm: option of the group.
        records: one per seed, in the order of seeds.
        curves: the curves of the same runs.
    """

    environment: str
    dataset: str
    label: str
    algorithm: str
    records: tuple[Record, ...]
    curves: tuple[tuple[Point, ...], ...]

    @property
    def n_seeds(self) -> int:
        """The number of runs."""
        return len(self.records)

    @property
    def kind(self) -> str:
        """The kind of its scores, see `score_kind`."""
        return score_kind(self.records[0])

    def scores(self, which: str = "last") -> np.ndarray:
        """Scores `[seeds]` of the last or the best checkpoints."""
        return np.array([score_of(record, which) for record in self.records])

    def values(self, name: str) -> list[float]:
        """A field of the records, as far as they have it."""
        return [value for record in self.records if (value := getattr(record, name)) is not None]


OWN, NORMALIZED, SHARE, RETURN = "own score", "normalised score", "% of the data's return", "episode return"


def score_kind(record: Record) -> str:
    """The kind of score that a run has.

    If the opponent is ours, only references measured against it are meaningful; if there are no references, the score
    is the return in percent of the data's, or the plain return if the data's is not above zero, as percentages would
    then rank in reverse.
    """
    if record.last_own_normalized_score is not None:
        return OWN
    if record.last_normalized_score is not None:
        return NORMALIZED
    return SHARE if record.behavior_return > 0 else RETURN


def score_of(record: Record, which: str = "last") -> float:
    """The score of a run's `last` or `best` checkpoint, or of its data (`behavior`), of the kind of `score_kind`."""
    names = ("own_normalized_score", "normalized_score", "return")
    return _on_scale(record, *(getattr(record, f"{which}_{name}") for name in names))


def point_score(record: Record, point: Point) -> float:
    """The score of a point of a run's curve, on the same scale."""
    return _on_scale(record, point.own_normalized_score, point.normalized_score, point.return_mean)


def _on_scale(record: Record, own: float | None, normalized: float | None, episode_return: float) -> float:
    """The score of the run's kind, computed from the return if there is none."""
    kind = score_kind(record)
    value = {OWN: own, NORMALIZED: normalized}.get(kind)
    if value is not None:
        return value
    return episode_return if kind == RETURN else 100.0 * episode_return / record.behavior_return


def gather(paths: Sequence[Path], left_out: Callable[[str], Any] = lambda line: None) -> list[Group]:
    """Reads stores, run folders, and folders of these; a run that is in several of them counts once.

    Args:
        paths: the stores and folders.
        left_out: see `runs_in`.

    Raises:
        UserError: a path is neither, a run is not finished, or runs of one method and dataset differ in more than
            their seed and settings, or methods on one dataset in their data or world.
    """
    records: dict[tuple[str, str], Record] = {}
    curves: dict[tuple[str, str], list[Point]] = {}
    for path in paths:
        for record, points in runs_in(path, left_out):
            records.setdefault(identity(record), record)
            curves.setdefault(identity(record), points)
    if not records:
        raise UserError(f"{', '.join(map(str, paths))}: no finished run found")
    methods: dict[tuple[str, str, str], list[Record]] = {}
    for record in records.values():
        methods.setdefault((record.environment, record.dataset, record.algorithm), []).append(record)
    named = [(label, runs) for alike in methods.values() for label, runs in name_apart(alike)]
    whose = {label: {runs[0].algorithm for other, runs in named if other == label} for label, _ in named}
    found = [
        _group(label if len(whose[label]) == 1 else f"{label} of {runs[0].algorithm}", runs, curves)
        for label, runs in named
    ]
    order = {run: place for place, run in enumerate(records)}
    found.sort(key=lambda group: min(order[identity(record)] for record in group.records))
    _require_one_world(found)
    return found


def _group(label: str, members: list[Record], curves: dict[tuple[str, str], list[Point]]) -> Group:
    members = sorted(members, key=lambda record: record.seed)
    first = members[0]
    for one, other in itertools.pairwise(members):
        if one.seed == other.seed:
            raise UserError(_there_twice(one, other))
    for record in members:
        _require_alike(first, record)
    sorted_curves = tuple(tuple(sorted(curves[identity(record)], key=lambda point: point.step)) for record in members)
    return Group(
        environment=first.environment,
        dataset=first.dataset,
        label=label,
        algorithm=first.algorithm,
        records=tuple(members),
        curves=sorted_curves,
    )


def _there_twice(one: Record, other: Record) -> str:
    same = one.config_hash == other.config_hash
    unlike, words = ("dataset_fingerprint", "datasets") if same else ("config_hash", "configurations")
    found = " and ".join(f"{getattr(record, unlike)} of revision {record.git_revision[:7]}" for record in (one, other))
    return (
        f"{one.experiment}, {one.variant or one.algorithm}, seed {one.seed} occurs twice, with two {words} "
        f"({unlike} {found}); name only one run folder or store of them, or delete the row of one from its results.csv"
    )


_ALIKE = {  # fields that must agree before runs may be averaged
    "dataset_fingerprint": "datasets",
    "environment_fingerprint": "worlds",
    "budget_steps": "numbers of updates",
    "execution": "ways of acting",
    "shared_seeds": "shared seeds",
}


def _require_alike(first: Record, other: Record) -> None:
    unlike = next((name for name in _ALIKE if getattr(first, name) != getattr(other, name)), None)
    words = "kinds of score" if score_kind(first) != score_kind(other) else _ALIKE.get(unlike or "")
    if words is not None:
        raise UserError(
            f"{first.experiment}, {first.variant or first.algorithm}, seeds {first.seed} and {other.seed} have two "
            f"{words}; report them separately"
        )


_OF_A_COLUMN = {"dataset_fingerprint": "data", "environment_fingerprint": "worlds"}  # what methods must share


def _require_one_world(groups: Sequence[Group]) -> None:
    """Refuses methods on datasets of one name that were trained on different data or played different worlds."""
    first: dict[str, Group] = {}
    for group in groups:
        other = first.setdefault(group.dataset, group)
        if group.environment != other.environment:
            raise UserError(
                f"{group.dataset}: {other.label} played in {other.environment}, {group.label} in {group.environment}; "
                "report them separately, or give one of the datasets another name"
            )
        for name, words in _OF_A_COLUMN.items():
            if getattr(group.records[0], name) != getattr(other.records[0], name):
                raise UserError(
                    f"{group.dataset}: {other.label} and {group.label} have two {words}; report them separately"
                )
