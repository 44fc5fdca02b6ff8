"""What a report says over several tasks at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dof_lightning.report import statistics as over_runs
from dof_lightning.report.gathering import RETURN, Group
from dof_lightning.report.tables import LEAST_SEEDS, Table, budgets, labels

REPETITIONS = 2000  # draws of the bootstrap


@dataclass(frozen=True)
class Comparison:
    """Methods on the tasks that they have in common.

    Attributes:
        kind: of score.
        scores: `{method: {task: [seeds]}}`.
        tasks: all of them.
        reservations: what has to be said below a number over these tasks; empty, or sentences after a space.
    """

    kind: str
    scores: dict[str, dict[str, np.ndarray]]
    tasks: list[str]
    reservations: str

    @property
    def of_means(self) -> str:
        """The reservations about an interquartile mean."""
        plain = any(over_runs.left_out(of_tasks) == 0 for of_tasks in self.scores.values())
        said = " Of fewer than four runs none is left out: there it is the mean." if plain else ""
        return said + self.reservations


def comparisons(groups: Sequence[Group]) -> Iterator[Comparison]:
    """One for each kind of score that several methods have on the same tasks."""
    for kind, scored in by_kind(groups).items():
        tasks = over_runs.common_tasks(scored)
        if len(scored) < 2 or not tasks:
            continue
        told = {label: over_runs.restricted(of_tasks, tasks) for label, of_tasks in scored.items()}
        absent = [name for name in labels([group for group in groups if group.kind == kind]) if name not in told]
        updates = budgets([group for group in groups if group.label in told and group.dataset in tasks])
        yield Comparison(kind, told, tasks, _reservations(told, absent) + (f" {updates}" if updates else ""))


def aggregates(groups: Sequence[Group], against: str | None, seed: int) -> Iterator[Table]:
    """Over the tasks that several methods have in common: IQM with intervals, and probabilities of improvement."""
    for comparison in comparisons(groups):
        yield _interquartile_means(comparison, seed)
        yield _improvements(comparison, compared(comparison.scores, against), seed)


_OURS = ("dof_policy", "dof_trajectory")  # compared with the others where nobody else is named


def compared(told: Iterable[str], against: str | None) -> str:
    """The method whose probability of improvement is told: `against`, else DoF, else the first."""
    names = list(told)
    return next(name for name in (against, *_OURS, *names) if name in names)


def _reservations(told: dict[str, dict[str, np.ndarray]], absent: Sequence[str]) -> str:
    """What has to be said below a number over several tasks."""
    said = f" Left out, as they were not run on all of these: {', '.join(absent)}." if absent else ""
    if min(len(values) for of_tasks in told.values() for values in of_tasks.values()) < LEAST_SEEDS:
        said += f" Fewer than {LEAST_SEEDS} seeds in places: a sanity check, from which no ranking follows."
    return said


def by_kind(groups: Sequence[Group]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """`{kind of score: {method: {task: [seeds]}}}`, in the order of `labels`.

    Without raw returns: those of one task say nothing beside those of another.
    """
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for kind in dict.fromkeys(group.kind for group in groups if group.kind != RETURN):
        alike = [group for group in groups if group.kind == kind]
        most = _largest_common([{g.dataset for g in alike if g.label == label} for label in labels(alike)])
        found[kind] = {
            label: {group.dataset: group.scores() for group in alike if group.label == label}
            for label in labels(alike)
            if most <= {group.dataset for group in alike if group.label == label}
        }
    return found


def _largest_common(sets: Sequence[set[str]]) -> set[str]:
    """The datasets that most methods share: those which at least half of the methods have."""
    every = sorted(set().union(*sets))
    return {name for name in every if 2 * sum(name in one for one in sets) >= len(sets)}


def _interquartile_means(comparison: Comparison, seed: int) -> Table:
    rows = []
    for label, of_tasks in comparison.scores.items():
        between = _interval(over_runs.interquartile_mean, [of_tasks], seed, digits=1)
        middle = f"{over_runs.interquartile_mean(of_tasks):.1f}"
        rows.append((label, middle, between, str(sum(map(len, of_tasks.values())))))
    note = (
        f"Over {', '.join(comparison.tasks)}. Interquartile mean of all runs (Agarwal et al., 2021), 95 % stratified "
        f"bootstrap over seeds.{comparison.of_means}"
    )
    title = f"Interquartile mean of the {comparison.kind}"
    return Table(title, ("method", "IQM", "95 % interval", "runs"), tuple(rows), note)


def _interval(statistic: Callable[..., float], scores: Sequence[dict[str, np.ndarray]], seed: int, digits: int) -> str:
    between = interval_of(statistic, scores, seed)
    return "- (one seed)" if between is None else f"{between[0]:.{digits}f} to {between[1]:.{digits}f}"


def interval_of(
    statistic: Callable[..., float], scores: Sequence[over_runs.Scores], seed: int
) -> tuple[float, float] | None:
    """A statistic's 95 % interval; None where a task has one seed, which says nothing about others.

    Args:
        statistic: of one or more methods' scores.
        scores: of each of these methods.
        seed: of the bootstrap.
    """
    if min(len(values) for one in scores for values in one.values()) < 2:
        return None
    return over_runs.interval(statistic, scores, REPETITIONS, np.random.default_rng(seed))


def _improvements(comparison: Comparison, against: str, seed: int) -> Table:
    told, rows = comparison.scores, []
    for label, of_tasks in told.items():
        if label != against:
            pair = [told[against], of_tasks]
            value = over_runs.probability_of_improvement(*pair)
            rows.append((label, f"{value:.2f}", _interval(over_runs.probability_of_improvement, pair, seed, digits=2)))
    note = (
        f"How likely a run of {against} scores more than one of the other method on the same task (ties count a half), "
        f"mean over tasks; 95 % stratified bootstrap.{comparison.reservations}"
    )
    title = f"Probability that {against} scores more, {comparison.kind}"
    return Table(title, ("than", "probability", "95 % interval"), tuple(rows), note)
