"""The summary of a report: the best method on a dataset, and the caveats that keep that from being a ranking."""

from pathlib import Path

import pytest

from dof_lightning.report.gathering import gather
from dof_lightning.report.store import ResultsStore
from dof_lightning.report.summary import Standing, standings
from tests.fixtures.report_stores import SPREAD
from tests.fixtures.store_rows import record


def standing(path: Path, against: str | None = None, **scores: list[float]) -> Standing:
    """The standing of methods on one dataset, with a score per seed."""
    for method, of_seeds in scores.items():
        for seed, score in enumerate(of_seeds):
            told = {"algorithm": method, "seed": seed, "config_hash": f"{method}{seed}", "last_normalized_score": score}
            centralized = {"execution": "centralized", "certified": False} if method == "madiff_c" else {}
            row = record(**told, **centralized, settings_hash=method, environment_fingerprint=SPREAD)
            ResultsStore(path).append(row, [])
    (found,) = standings(gather([path]), against, seed=0)
    return found


def test_the_highest_is_named_with_its_interval_and_the_next(tmp_path: Path) -> None:
    found = standing(tmp_path, bc=[30, 31, 32, 33, 34], dof_policy=[70, 71, 72, 73, 74])
    assert list(found.middles) == ["dof_policy", "bc"]
    assert "highest is dof_policy at 72.0 (" in found.sentence
    assert "excludes that of the next, bc at 32.0 (" in found.sentence
    assert found.sentence.endswith("5 seeds per method.")


def test_intervals_that_overlap_are_said_to(tmp_path: Path) -> None:
    found = standing(tmp_path, bc=[60, 71, 80, 70, 71], dof_policy=[58, 72, 82, 71, 72])
    assert "its interval overlaps that of the next, bc" in found.sentence
    assert "excludes" not in found.sentence


@pytest.mark.parametrize(("bc", "words"), [([1.0, 2], "2 to 5 seeds"), ([1.0, 2, 3, 4, 5], "5 seeds")])
def test_fewer_than_five_seeds_of_any_method_are_too_few_for_a_ranking(
    tmp_path: Path, bc: list[float], words: str
) -> None:
    sentence = standing(tmp_path, bc=bc, dof_policy=[70, 71, 72, 73, 74]).sentence
    assert f" {words} per method" in sentence
    assert ("too few for a ranking" in sentence) == (len(bc) < 5)


def test_one_seed_is_no_interval(tmp_path: Path) -> None:
    sentence = standing(tmp_path, bc=[30.0], dof_policy=[70.0]).sentence
    assert "dof_policy at 70.0 (one seed); there is no interval to tell it from the next" in sentence
    assert sentence.endswith("1 seed per method: too few for a ranking.")


def test_a_method_that_is_alone_is_held_against_its_data(tmp_path: Path) -> None:
    assert "is the only method; the data are at 30.7." in standing(tmp_path, dof_policy=[70, 71]).sentence


def test_dof_or_who_was_asked_for_is_placed_where_it_does_not_come_first_or_second(tmp_path: Path) -> None:
    scores = {"omar": [80.0, 81], "bc": [70.0, 71], "dof_policy": [60.0, 61], "td3_bc": [50.0, 51]}
    assert "dof_policy at 60.5 (60.0 to 61.0) is number 3 of 4." in standing(tmp_path, **scores).sentence
    (asked,) = standings(gather([tmp_path]), "td3_bc", seed=0)
    assert "td3_bc at 50.5 (50.0 to 51.0) is number 4 of 4." in asked.sentence


def test_who_acts_centralized_says_so_where_its_number_stands(tmp_path: Path) -> None:
    assert "madiff_c [centralized] at 90.0" in standing(tmp_path, bc=[70.0], madiff_c=[90.0]).sentence
