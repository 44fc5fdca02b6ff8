"""Statistics over seeds and tasks: their properties, whatever computes them."""

import numpy as np
import pytest

from dof_lightning.report.statistics import (
    interquartile_mean,
    left_out,
    middle_of_seeds,
    performance_profile,
    probability_of_improvement,
)

TASKS = ("a", "b", "c")


def runs(seed: int, n_seeds: int = 5) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed).normal(50, 20, (3, n_seeds))
    return {task: values for task, values in zip(TASKS, draws, strict=True)}


@pytest.mark.parametrize(
    ("values", "middle"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # of three none is left out
        ([-100.0, 2.0, 4.0, 900.0], 3.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0], 4.0),  # of seven one at either end
    ],
)
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(values: list[float], middle: float) -> None:
    assert interquartile_mean({"a": np.array(values)}, seed=0).value == pytest.approx(middle)
    assert left_out({"a": np.array(values)}) == len(values) // 4


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 8])
def test_over_the_seeds_of_one_task_it_is_the_same_without_the_extra(n_seeds: int) -> None:
    scores = runs(1, n_seeds)["a"]
    ours, theirs = middle_of_seeds(scores, seed=0), interquartile_mean({"a": scores}, seed=0)
    assert ours.value == pytest.approx(theirs.value)
    assert ours.interval == pytest.approx(theirs.interval, abs=0.15 * np.ptp(scores))
    assert middle_of_seeds(scores[:1], seed=0).interval is None


def test_runs_of_all_tasks_are_one_pool() -> None:
    scores = {"low": np.array([0.0, 1.0]), "high": np.array([100.0, 110.0])}
    assert interquartile_mean(scores, seed=0).value == pytest.approx((1 + 100) / 2)


def test_equal_scores_have_an_interval_of_no_width_and_others_lie_in_theirs() -> None:
    equal = interquartile_mean({task: np.full(4, 3.5) for task in TASKS}, seed=0)
    assert equal.value == 3.5
    assert equal.interval == (3.5, 3.5)
    told = interquartile_mean(runs(0), seed=0)
    assert told.interval is not None
    low, high = told.interval
    assert low < told.value < high
    assert high - low > 5
    assert min(map(min, runs(0).values())) <= low
    assert high <= max(map(max, runs(0).values()))


def test_intervals_are_of_95_percent() -> None:
    """Of 50 zeros and 50 ones a sample has k ~ Bin(100, 1/2) ones and the middle clip((k - 25) / 50, 0, 1)."""
    scores = np.r_[np.zeros(50), np.ones(50)]
    for estimate in (middle_of_seeds(scores, seed=0), interquartile_mean({"a": scores}, seed=0)):
        assert estimate.interval == pytest.approx((0.30, 0.70), abs=0.03)  # of 90 %: 0.34 and 0.66


def test_more_seeds_give_a_narrower_interval() -> None:
    widths = []
    for n_seeds in (5, 20, 80):
        told = interquartile_mean(runs(0, n_seeds), seed=0).interval
        assert told is not None
        widths.append(told[1] - told[0])
    assert widths == sorted(widths, reverse=True)


def test_one_seed_of_a_task_says_nothing_about_others() -> None:
    lonely = runs(0) | {"b": np.array([50.0])}
    assert interquartile_mean(lonely, seed=0).interval is None
    assert probability_of_improvement(runs(1), lonely, seed=0).interval is None


def test_the_same_seed_gives_the_same_interval_and_leaves_others_randomness_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = interquartile_mean(runs(0), seed=0), probability_of_improvement(runs(0), runs(1), seed=0)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    assert first == (interquartile_mean(runs(0), seed=0), probability_of_improvement(runs(0), runs(1), seed=0))
    assert first[0].interval != interquartile_mean(runs(0), seed=1).interval


def test_seeds_are_drawn_within_their_task() -> None:
    scores = {"low": np.array([0.0, 1.0]), "high": np.array([100.0, 101.0, 102.0])}
    assert interquartile_mean(scores, seed=0).interval == pytest.approx((50.0, 51.5), abs=0.5)  # mixed, it is 0 to 102
    better = {task: values + 10 for task, values in scores.items()}
    certain = probability_of_improvement(better, scores, seed=0)
    assert certain.interval == (1.0, 1.0)  # across tasks a run of `low` would lose


def test_ties_count_a_half_and_what_is_certain_is_certain() -> None:
    ours, better = {"a": np.array([1.0, 1.0])}, {"a": np.array([2.0])}
    assert probability_of_improvement(ours, ours, seed=0).value == 0.5
    assert probability_of_improvement(better, ours, seed=0).value == 1.0
    assert probability_of_improvement(ours, better, seed=0).value == 0.0
    with pytest.raises(ValueError, match="no task in common"):
        probability_of_improvement(ours, {"b": np.array([1.0])}, seed=0)


def test_a_probability_is_the_share_of_pairs_mean_over_the_common_tasks() -> None:
    ours = {"a": np.array([1.0, 3.0]), "b": np.array([5.0]), "ours": np.array([0.0])}
    theirs = {"b": np.array([5.0, 6.0, 4.0, 1.0]), "a": np.array([2.0, 3.0])}
    of_a, of_b = (0 + 1 + 0.5) / 4, (0.5 + 0 + 1 + 1) / 4
    assert probability_of_improvement(ours, theirs, seed=0).value == pytest.approx((of_a + of_b) / 2)
    there, back = (probability_of_improvement(*pair, seed=0).value for pair in ((ours, theirs), (theirs, ours)))
    assert there + back == pytest.approx(1.0)


def test_a_profile_falls_from_all_to_none_and_counts_what_lies_above() -> None:
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0, 5.0])}
    profile = performance_profile(scores, np.array([0.0, 1.0, 2.5, 4.0, 5.0]))
    np.testing.assert_allclose(profile, [1, 3 / 4, 1 / 2, 1 / 6, 0])


def test_every_task_counts_the_same_whatever_its_number_of_seeds() -> None:
    many_easy = {"easy": np.full(4, 90.0), "hard": np.full(1, 10.0)}
    many_hard = {"easy": np.full(1, 90.0), "hard": np.full(4, 10.0)}
    assert interquartile_mean(many_easy, seed=0).value == interquartile_mean(many_hard, seed=0).value == 50.0
    mixed = {"a": np.array([1.0, 5.0]), "b": np.array([2.0, 3.0, 9.0])}
    repeated = {"a": np.repeat(mixed["a"], 3), "b": np.repeat(mixed["b"], 2)}
    assert interquartile_mean(mixed, seed=0).value == pytest.approx(interquartile_mean(repeated, seed=0).value)
