"""Statistics over seeds and tasks, as recommended by Agarwal et al. (2021): computed by `rliable`, an extra.

A method's scores are one array of seeds per task: `{task: [seeds]}`. Tasks may have different numbers of seeds; every
task counts the same, whatever its number of seeds.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

Scores = Mapping[str, np.ndarray]

INSTALL = "pip install -c constraints.txt -e '.[report]'"
_REPETITIONS = 1000  # draws of the bootstrap: half a millisecond each, for every method and number
_DRAWS_AT_ONCE = 10_000  # of the seeds of one method on one task: a millisecond


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % interval under the stratified bootstrap: seeds are resampled within each task.

    Attributes:
        value: the statistic of the runs themselves.
        interval: from low to high; None if a task has one seed, which carries no information about others.
    """

    value: float
    interval: tuple[float, float] | None


def installed() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("rliable") is not None


def interquartile_mean(scores: Scores, seed: int) -> Estimate:
    """IQM, the mean of the middle half of all runs of all tasks: of n runs, floor(n / 4) are dropped at either end."""
    from rliable import metrics

    return _estimate(lambda *drawn: float(metrics.aggregate_iqm(_alike(drawn))), list(scores.values()), seed)


def middle_of_seeds(scores: np.ndarray, seed: int) -> Estimate:
    """IQM of the seeds `[S]` of one method on one task: as in `interquartile_mean`, but without the extra.

    All draws of the bootstrap are one array, so that a report of a hundred methods and tasks takes less than a minute.
    """
    cut = int(0.25 * len(scores))

    def middle(runs: np.ndarray) -> np.ndarray:
        kept: np.ndarray = np.sort(runs, axis=-1)[..., cut : len(scores) - cut]
        return kept.mean(-1)

    value = float(middle(scores))
    if len(scores) < 2:
        return Estimate(value=value, interval=None)
    drawn = np.random.default_rng(seed).choice(scores, size=(_DRAWS_AT_ONCE, len(scores)))
    low, high = np.percentile(middle(drawn), [2.5, 97.5])
    return Estimate(value=value, interval=(float(low), float(high)))


def left_out(scores: Scores) -> int:
    """The number of runs that the interquartile mean drops at either end, once all tasks have the same number."""
    return int(0.25 * len(scores) * math.lcm(*map(len, scores.values())))


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs that score more than each threshold `[M]`: the mean over tasks of the shares there."""
    from rliable import library

    return np.asarray(library.score_distributions(_alike([runs[:, None] for runs in scores.values()]), thresholds))


def probability_of_improvement(ours: Scores, theirs: Scores, seed: int) -> Estimate:
    """P(X > Y) for a run of ours and one of theirs, where ties count a half: the mean over the tasks that both have.

    Raises:
        ValueError: they have no task in common.
    """
    tasks = common_tasks({"ours": ours, "theirs": theirs})
    if not tasks:
        raise ValueError("there is no task in common")
    # Every pair of runs is compared once, and runs are drawn by their number: rliable's function takes a millisecond
    # per task, so all draws would take minutes instead of a second.
    wins = [_wins(ours[task], theirs[task]) for task in tasks]
    numbers = [np.arange(len(scores[task])) for scores in (ours, theirs) for task in tasks]

    def mean_over_tasks(*drawn: np.ndarray) -> float:
        pairs = zip(wins, drawn[: len(tasks)], drawn[len(tasks) :], strict=True)
        return float(np.mean([won[mine, other.T].mean() for won, mine, other in pairs]))

    return _estimate(mean_over_tasks, numbers, seed)


def common_tasks(scores: Mapping[str, Scores]) -> list[str]:
    """The tasks that all methods have, in the order of the first method."""
    methods = list(scores.values())
    return [task for task in (methods[0] if methods else {}) if all(task in other for other in methods)]


def _estimate(statistic: Callable[..., float], runs: Sequence[np.ndarray], seed: int) -> Estimate:
    """Resamples each array of runs separately, so that tasks may have different numbers of them."""
    from rliable import library

    columns = [one[:, None] for one in runs]
    if min(map(len, runs)) < 2:
        return Estimate(value=statistic(*columns), interval=None)
    with _seeded(seed):
        values, intervals = library.get_interval_estimates(
            {"": columns}, lambda *drawn: np.array([statistic(*drawn)]), reps=_REPETITIONS
        )
    low, high = intervals[""][:, 0]
    return Estimate(value=float(values[""][0]), interval=(float(low), float(high)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator and restores its state: rliable draws from it, whatever its `random_state`."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _alike(columns: Sequence[np.ndarray]) -> np.ndarray:
    """One matrix `[runs, tasks]`, as rliable requires, from one column `[seeds, 1]` per task.

    If tasks have different numbers of seeds, runs are repeated until all have the same number (the least common
    multiple): otherwise the task with most seeds would decide, and methods would be compared on different mixtures of
    tasks.
    """
    most = math.lcm(*map(len, columns))
    return np.hstack([np.repeat(column, most // len(column), axis=0) for column in columns])


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Matrix `[ours, theirs]`: 1 where a run scores more than another on the same task, 0.5 where they tie."""
    from rliable import metrics

    mine, other_runs = ours.reshape(-1, 1, 1), theirs.reshape(-1, 1, 1)  # a run on a task is a matrix of one number
    return np.array([[metrics.probability_of_improvement(one, other) for other in other_runs] for one in mine])
