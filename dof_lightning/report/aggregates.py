"""The part of a report that aggregates over several tasks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dof_lightning.report import statistics as over_runs
from dof_lightning.report.gathering import RETURN, Group
from dof_lightning.report.published import OURS
from dof_lightning.report.statistics import Estimate
from dof_lightning.report.tables import LEAST_SEEDS, Table, budgets, caveat, labels


@dataclass(frozen=True)
class Comparison:
    """Methods on the tasks that they have in common.

    Attributes:
        kind: the kind of score.
        scores: `{method: {task: [seeds]}}`.
        tasks: all common tasks.
        reservations: caveats to print below a number over these tasks; empty, or sentences after a space.
        first: the method that is compared with the others.
        seed: seed of the bootstrap.
    """

    kind: str
    scores: dict[str, dict[str, np.ndarray]]
    tasks: list[str]
    reservations: str
    first: str
    seed: int

    @cached_property
    def middles(self) -> dict[str, Estimate]:
        """The interquartile mean of every method."""
        return {label: over_runs.interquartile_mean(of_tasks, self.seed) for label, of_tasks in self.scores.items()}

    @cached_property
    def improvements(self) -> dict[str, Estimate]:
        """The probability that `first` scores more than each of the others."""
        ours = self.scores[self.first]
        return {
            label: over_runs.probability_of_improvement(ours, theirs, self.seed)
            for label, theirs in self.scores.items()
            if label != self.first
        }

    @property
    def of_means(self) -> str:
        """The reservations about an interquartile mean."""
        plain = any(over_runs.left_out(of_tasks) == 0 for of_tasks in self.scores.values())
        text = " Of fewer than four runs none is left out: there it is the mean." if plain else ""
        return text + self.reservations


def comparisons(groups: Sequence[Group], against: str | None, seed: int) -> list[Comparison]:
    """Makes a comparison for each kind of score that several methods have on the same tasks.

    `against` is the method that is compared with the others (None: DoF), `seed` the bootstrap's seed.
    """
    found = []
    for kind, scored in by_kind(groups, against).items():
        tasks = over_runs.common_tasks(scored)
        if len(scored) < 2 or not tasks:
            continue
        common = {label: {task: of_tasks[task] for task in tasks} for label, of_tasks in scored.items()}
        absent = [name for name in labels([group for group in groups if group.kind == kind]) if name not in common]
        compared_groups = [group for group in groups if group.label in common and group.dataset in tasks]
        updates = budgets(compared_groups)
        found.append(
            Comparison(
                kind=kind,
                scores=common,
                tasks=tasks,
                reservations=_reservations(common, absent)
                + _marks(compared_groups)
                + (f" {updates}" if updates else ""),
                first=compared(common, against),
                seed=seed,
            )
        )
    return found


def aggregates(found: Sequence[Comparison]) -> Iterator[Table]:
    """Tables over the tasks that several methods have in common: IQM with intervals, probabilities of improvement."""
    for comparison in found:
        yield _interquartile_means(comparison)
        yield _improvements(comparison)


def compared(methods: Iterable[str], against: str | None) -> str:
    """Chooses the method that a report compares with the others: `against`, else DoF, else the first."""
    names = list(methods)
    return next(name for name in (against, *OURS, *names) if name in names)


def _marks(groups: Sequence[Group]) -> str:
    """What accompanies single numbers of the methods in the tables of scores, once for each method."""
    marked = {f"{group.label}{caveat(group)}": None for group in groups if caveat(group)}
    return f" Among them: {', '.join(marked)}." if marked else ""


def _reservations(scored: dict[str, dict[str, np.ndarray]], absent: Sequence[str]) -> str:
    """The caveats to print below a number over several tasks."""
    text = f" Left out, as they were not run on all of these: {', '.join(absent)}." if absent else ""
    if min(len(values) for of_tasks in scored.values() for values in of_tasks.values()) < LEAST_SEEDS:
        text += f" Fewer than {LEAST_SEEDS} seeds in places: a sanity check, from which no ranking follows."
    return text


def by_kind(groups: Sequence[Group], against: str | None) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """`{kind of score: {method: {task: [seeds]}}}`, in the order of `labels`, of methods that have run on all tasks.

    The tasks are those that the compared method (see `compared`) and at least half of all have run on. Raw returns
    are left out: those of one task are not comparable with those of another.
    """
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for kind in dict.fromkeys(group.kind for group in groups if group.kind != RETURN):
        alike = [group for group in groups if group.kind == kind]
        scored = {name: {g.dataset: g.scores() for g in alike if g.label == name} for name in labels(alike)}
        methods = Counter(dataset for of_tasks in scored.values() for dataset in of_tasks)
        ours = scored[compared(scored, against)]
        shared = {dataset for dataset in ours if 2 * methods[dataset] >= len(scored)}
        found[kind] = {label: of_tasks for label, of_tasks in scored.items() if shared <= of_tasks.keys()}
    return found


def _interquartile_means(comparison: Comparison) -> Table:
    rows = [
        (
            label,
            f"{middle.value:.1f}",
            _interval(middle, digits=1),
            str(sum(map(len, comparison.scores[label].values()))),
        )
        for label, middle in comparison.middles.items()
    ]
    note = (
        f"Over {', '.join(comparison.tasks)}. Interquartile mean of all runs (Agarwal et al., 2021), 95 % stratified "
        f"bootstrap over seeds.{comparison.of_means}"
    )
    title = f"Interquartile mean of the {comparison.kind}"
    return Table(title=title, columns=("method", "IQM", "95 % interval", "runs"), rows=tuple(rows), note=note)


def _improvements(comparison: Comparison) -> Table:
    rows = [
        (label, f"{chance.value:.2f}", _interval(chance, digits=2)) for label, chance in comparison.improvements.items()
    ]
    note = (
        f"How likely a run of {comparison.first} scores more than one of the other method on the same task (ties count "
        f"a half), mean over tasks; 95 % stratified bootstrap.{comparison.reservations}"
    )
    title = f"Probability that {comparison.first} scores more, {comparison.kind}"
    return Table(title=title, columns=("than", "probability", "95 % interval"), rows=tuple(rows), note=note)


def _interval(estimate: Estimate, digits: int) -> str:
    if estimate.interval is None:
        return "- (one seed)"
    low, high = estimate.interval
    return f"{low:.{digits}f} to {high:.{digits}f}"
