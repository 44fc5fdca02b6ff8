"""Statistics over seeds and tasks, against rliable."""

import numpy as np
import pytest
from rliable import library, metrics

from dof_lightning.report import statistics

TASKS = ("a", "b", "c")


def runs(seed: int, n_seeds: int = 5) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed).normal(50, 20, (3, n_seeds))
    return {task: values for task, values in zip(TASKS, draws, strict=True)}


def matrix(scores: dict[str, np.ndarray]) -> np.ndarray:
    """`[seeds, tasks]`, as rliable has it."""
    return np.stack(list(scores.values()), axis=1)


@pytest.mark.parametrize("n_seeds", [1, 3, 4, 10])
def test_interquartile_means_are_rliables(n_seeds: int) -> None:
    scores = runs(0, n_seeds)
    assert statistics.interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(matrix(scores)), rel=1e-12)


def test_probabilities_of_improvement_are_rliables() -> None:
    ours, theirs = runs(0), runs(1, n_seeds=3)
    expected = metrics.probability_of_improvement(matrix(ours), matrix(theirs))
    assert statistics.probability_of_improvement(ours, theirs) == pytest.approx(expected, rel=1e-12)


def test_performance_profiles_are_rliables() -> None:
    thresholds = np.linspace(0, 100, 21)
    profile, _ = library.create_performance_profile({"x": matrix(runs(0))}, thresholds, reps=2)
    np.testing.assert_allclose(statistics.performance_profile(runs(0), thresholds), profile["x"], rtol=1e-12)


def test_intervals_are_rliables_up_to_the_draws() -> None:
    scores, told = {"x": matrix(runs(0))}, runs(0)
    _, expected = library.get_interval_estimates(scores, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2000)
    ours = statistics.interval(statistics.interquartile_mean, [told], 2000, np.random.default_rng(0))
    np.testing.assert_allclose(ours, expected["x"][:, 0], atol=2.0)
    width = ours[1] - ours[0]
    assert width > 5
    assert ours[0] < statistics.interquartile_mean(told) < ours[1]


def test_the_same_seed_gives_the_same_interval() -> None:
    first, again, other = (
        statistics.interval(statistics.interquartile_mean, [runs(0)], 200, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_seeds_are_drawn_within_their_task() -> None:
    scores = {"low": np.array([0.0, 1.0]), "high": np.array([100.0, 101.0, 102.0])}
    for drawn in statistics.stratified_bootstrap(scores, 50, np.random.default_rng(0)):
        assert {task: len(values) for task, values in drawn.items()} == {"low": 2, "high": 3}
        assert drawn["low"].max() <= 1 < drawn["high"].min()


def test_ties_count_a_half_and_what_is_certain_is_certain() -> None:
    ours, better = {"a": np.array([1.0, 1.0])}, {"a": np.array([2.0])}
    assert statistics.probability_of_improvement(ours, ours) == 0.5
    assert statistics.probability_of_improvement(better, ours) == 1.0
    with pytest.raises(ValueError, match="no task in common"):
        statistics.probability_of_improvement(ours, {"b": np.array([1.0])})


def test_every_task_counts_the_same_whatever_its_number_of_seeds() -> None:
    many_easy = {"easy": np.full(4, 90.0), "hard": np.full(1, 10.0)}
    many_hard = {"easy": np.full(1, 90.0), "hard": np.full(4, 10.0)}
    assert statistics.interquartile_mean(many_easy) == statistics.interquartile_mean(many_hard) == 50.0
    mixed = {"a": np.array([1.0, 5.0]), "b": np.array([2.0, 3.0, 9.0])}
    repeated = {"a": np.repeat(mixed["a"], 3), "b": np.repeat(mixed["b"], 2)}
    assert statistics.interquartile_mean(mixed) == pytest.approx(metrics.aggregate_iqm(matrix(repeated)), rel=1e-12)
