"""Statistics over seeds and tasks, as Agarwal et al. (2021) ask for them: pure functions of numpy arrays.

A method's scores are one array of seeds a task: `{task: [seeds]}`. Tasks may have different numbers of seeds; every
task counts the same whatever their number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Scores = Mapping[str, np.ndarray]


def interquartile_mean(scores: Scores) -> float:
    """IQM: the mean of the middle half of all runs of all tasks; of n runs floor(n / 4) are left out at either end.

    Where tasks have different numbers of seeds, runs are repeated until all have as many (their least common multiple):
    otherwise the task with most seeds would decide, and methods would be compared on different mixtures of tasks.
    """
    alike = math.lcm(*map(len, scores.values()))
    values = np.sort(np.concatenate([np.repeat(runs, alike // len(runs)) for runs in scores.values()]))
    cut = left_out(scores)
    return float(values[cut : len(values) - cut].mean())


def left_out(scores: Scores) -> int:
    """How many runs the interquartile mean leaves out at either end, once all tasks have as many."""
    return int(0.25 * len(scores) * math.lcm(*map(len, scores.values())))


def stratified_bootstrap(
    scores: Scores, repetitions: int, generator: np.random.Generator
) -> list[dict[str, np.ndarray]]:
    """Draws seeds anew within each task, with replacement.

    Args:
        scores: of a method.
        repetitions: how many draws.
        generator: the only source of randomness.

    Returns:
        as many scores of the same shape.
    """
    drawn = {
        task: values[generator.integers(len(values), size=(repetitions, len(values)))]
        for task, values in scores.items()
    }
    return [{task: values[index] for task, values in drawn.items()} for index in range(repetitions)]


def interval(
    statistic: Callable[..., float],
    scores: Sequence[Scores],
    repetitions: int,
    generator: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval of a statistic under the stratified bootstrap.

    Args:
        statistic: of one or more methods' scores.
        scores: of each of these methods; they are drawn independently.
        repetitions: how many draws.
        generator: the only source of randomness.
        level: share of the draws inside.
    """
    draws = zip(*(stratified_bootstrap(one, repetitions, generator) for one in scores), strict=True)
    values = np.array([statistic(*drawn) for drawn in draws])
    outside = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [outside, 100.0 - outside])
    return float(low), float(high)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs that score more than each threshold `[M]`: the mean over tasks of the shares there."""
    shares = [(values[None] > thresholds[:, None]).mean(1) for values in scores.values()]
    return np.asarray(np.mean(shares, axis=0))


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """P(X > Y) of a run of ours and one of theirs, ties counting a half: the mean over the tasks that both have.

    Raises:
        ValueError: they have no task in common.
    """
    tasks = [task for task in ours if task in theirs]
    if not tasks:
        raise ValueError("there is no task in common")
    return float(np.mean([_mann_whitney(ours[task], theirs[task]) for task in tasks]))


def _mann_whitney(ours: np.ndarray, theirs: np.ndarray) -> float:
    difference = ours[:, None] - theirs[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def common_tasks(scores: Mapping[str, Scores]) -> list[str]:
    """The tasks that all methods have, in the order of the first method."""
    methods = list(scores.values())
    return [task for task in (methods[0] if methods else {}) if all(task in other for other in methods)]


def restricted(scores: Scores, tasks: Sequence[str]) -> dict[str, Any]:
    """The scores of some tasks."""
    return {task: scores[task] for task in tasks}
