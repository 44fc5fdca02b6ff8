"""Plans, tables and refusals of studies; runs of one are in tests/end_to_end/test_study.py."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import pytest

from dof_lightning.errors import UserError
from dof_lightning.files import over_seeds, to_csv, to_markdown
from dof_lightning.studies.base import Axes, Cell, execution
from dof_lightning.studies.scores import Scores

AXES: Axes = {
    "f": {"concat": ["noise_factorization=concat"], "qmix": ["noise_factorization=qmix", "execution=centralized"]},
    "h": {"concat": ["data_factorization=concat"], "all": ["data_factorization=attention", "execution=centralized"]},
}


def cell(labels: dict[str, str], seed: int, score: float | None, acted: str | None = None) -> Cell:
    last: dict[str, Any] = {"return_mean": 100.0 + seed, "normalized_score": score}
    last["certificate"] = {"passed": acted is None}
    last |= {} if acted is None else {"execution": acted}
    return Cell(
        labels, seed, {"last": last, "wall_seconds": 9.0, "behavior": {"normalized_score": score}}, {"decision_ms": 2.0}
    )


def test_cells_are_the_product_of_axes_and_seeds() -> None:
    plans = Scores(AXES, [0, 1]).plans()
    assert [(plan.labels["f"], plan.labels["h"], plan.seed) for plan in plans[:3]] == [
        ("concat", "concat", 0),
        ("concat", "concat", 1),
        ("concat", "all", 0),
    ]
    assert len(plans) == 8
    assert len({plan.name for plan in plans}) == 8


def test_a_key_that_two_axes_set_alike_is_set_once() -> None:
    last = Scores(AXES, [0]).plans()[-1]
    assert last.overrides == ("noise_factorization=qmix", "execution=centralized", "data_factorization=attention")


def test_a_key_that_two_axes_set_differently_is_refused() -> None:
    axes = {"f": {"a": ["execution=centralized"]}, "h": {"b": ["execution=decentralized"]}}
    with pytest.raises(
        UserError, match=r"study\.axes\.h: b sets execution=decentralized, another axis sets centralized"
    ):
        Scores(axes, [0]).plans()


@pytest.mark.parametrize(("axes", "seeds"), [({}, [0]), ({"f": {}}, [0]), (AXES, [])])
def test_a_study_without_cells_is_refused(axes: Axes, seeds: Sequence[int]) -> None:
    with pytest.raises(UserError, match="must not be empty"):
        Scores(axes, seeds)


def test_scores_are_means_over_seeds_and_centralised_ones_say_so() -> None:
    one, other = {"f": "concat", "h": "concat"}, {"f": "qmix", "h": "concat"}
    cells = [cell(one, 0, 10.0), cell(one, 1, 20.0), cell(other, 0, 5.0, "centralized")]
    report = Scores(AXES, [0, 1]).report(cells)
    rows = [dict(zip(report.columns, row, strict=True)) for row in report.rows]
    assert [row["normalised score"] for row in rows] == ["15.0 ± 7.1", "5.0"]
    assert [row["execution"] for row in rows] == ["decentralized", "centralized"]
    assert [row["seeds"] for row in rows] == [2, 1]
    assert report.figure is not None


def test_an_own_score_has_a_column_where_there_is_one() -> None:
    labels = {"f": "concat", "h": "concat"}
    cells = [cell(labels, 0, 10.0), cell(labels, 1, 20.0)]
    assert "own score" not in Scores(AXES, [0, 1]).report(cells).columns
    for seed, each in enumerate(cells):
        each.results["last"]["own_normalized_score"] = 4.0 + 2.0 * seed
    report = Scores(AXES, [0, 1]).report(cells)
    assert dict(zip(report.columns, report.rows[0], strict=True))["own score"] == "5.0 ± 1.4"


def test_a_score_says_how_the_agents_acted() -> None:
    alone, seeded, broken = (cell({"f": "concat", "h": "concat"}, seed, 1.0) for seed in range(3))
    seeded.results["last"] |= {"shared_seeds": 6}
    broken.results["last"]["certificate"] = {"passed": False}
    assert execution([alone]) == "decentralized"
    assert execution([seeded]) == "decentralized, shared seed of 6"
    assert execution([alone, broken]) == "NOT CERTIFIED"
    assert execution([cell({}, 0, 1.0, "centralized")]) == "centralized"


def test_labels_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(UserError, match="share the folder"):
        Scores({"f": {"a + b": ["x=1"], "a / b": ["x=2"]}}, [0]).plans()


def test_without_published_references_returns_are_compared() -> None:
    report = Scores(AXES, [0]).report([cell({"f": "concat", "h": "concat"}, 0, None)])
    row = dict(zip(report.columns, report.rows[0], strict=True))
    assert (row["return"], row["normalised score"]) == ("100.0", "-")


def test_tables_hold_every_cell() -> None:
    columns, rows = ["a, b", "score"], [["x | y", 1.23456789], ["z", "-"]]
    assert list(csv.reader(io.StringIO(to_csv(columns, rows)))) == [
        ["a, b", "score"],
        ["x | y", "1.23456789"],
        ["z", "-"],
    ]
    assert to_markdown(columns, rows) == "| a, b | score |\n| --- | --- |\n| x / y | 1.23 |\n| z | - |\n"


def test_one_seed_has_no_spread() -> None:
    assert over_seeds([1.25]) == "1.2"
    assert over_seeds([1.0, 3.0], digits=2) == "2.00 ± 1.41"
