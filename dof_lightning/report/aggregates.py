"""What a report says over several tasks at once."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dof_lightning.report import statistics as over_runs
from dof_lightning.report.gathering import Group
from dof_lightning.report.tables import Table, labels

REPETITIONS = 2000  # draws of the bootstrap


def aggregates(groups: Sequence[Group], against: str | None, seed: int) -> Iterator[Table]:
    """Over the tasks that several methods have in common: IQM with intervals, and probabilities of improvement."""
    for kind, scored in by_kind(groups).items():
        tasks = over_runs.common_tasks(scored)
        if len(scored) < 2 or not tasks:
            continue
        told = {label: over_runs.restricted(of_tasks, tasks) for label, of_tasks in scored.items()}
        yield _interquartile_means(kind, told, tasks, seed)
        yield _improvements(kind, told, against if against in told else next(iter(told)), seed)


def by_kind(groups: Sequence[Group]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """`{kind of score: {method: {task: [seeds]}}}`, methods with the largest mean score first."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for kind in dict.fromkeys(group.kind for group in groups):
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


def _interquartile_means(kind: str, told: dict[str, dict[str, np.ndarray]], tasks: list[str], seed: int) -> Table:
    rows = []
    for label, of_tasks in told.items():
        between = _interval(over_runs.interquartile_mean, [of_tasks], seed, digits=1)
        middle = f"{over_runs.interquartile_mean(of_tasks):.1f}"
        rows.append((label, middle, between, str(sum(map(len, of_tasks.values())))))
    note = (
        f"Over {', '.join(tasks)}. Interquartile mean of all runs (Agarwal et al., 2021), 95 % stratified bootstrap "
        "over seeds."
    )
    return Table(f"Interquartile mean of the {kind}", ("method", "IQM", "95 % interval", "runs"), tuple(rows), note)


def _interval(statistic: Callable[..., float], scores: Sequence[dict[str, np.ndarray]], seed: int, digits: int) -> str:
    """`12.3 to 45.6`; one seed of a task says nothing about others."""
    if min(len(values) for one in scores for values in one.values()) < 2:
        return "- (one seed)"
    low, high = over_runs.interval(statistic, scores, REPETITIONS, np.random.default_rng(seed))
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _improvements(kind: str, told: dict[str, dict[str, np.ndarray]], against: str, seed: int) -> Table:
    rows = []
    for label, of_tasks in told.items():
        if label != against:
            pair = [told[against], of_tasks]
            value = over_runs.probability_of_improvement(*pair)
            rows.append((label, f"{value:.2f}", _interval(over_runs.probability_of_improvement, pair, seed, digits=2)))
    note = (
        f"How likely a run of {against} scores more than one of the other method on the same task (ties count a half), "
        "mean over tasks; 95 % stratified bootstrap."
    )
    title = f"Probability that {against} scores more, {kind}"
    return Table(title, ("than", "probability", "95 % interval"), tuple(rows), note)
