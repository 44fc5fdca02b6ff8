"""The measurements of the motivating games' studies: zero for perfect samplers, a product's limits for products."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from data_modules.behavior.game_teams import LandmarkTeam
from dof_lightning.envs.games import GaussianGame, LandmarkGame
from dof_lightning.evaluation.two_sample import (
    energy_distance,
    product_of_marginals,
    quadrant_table,
    total_correlation,
    total_variation,
)
from dof_lightning.studies.base import Axes, Cell, Study
from dof_lightning.studies.gaussian_game import GaussianGameStudy, judge
from dof_lightning.studies.landmark_game import LandmarkGameStudy, count_distinct, headings, play
from tests.fixtures.policy_models import generator

XOR = [[0.0, 0.5], [0.5, 0.0]]
CORRELATED = [[0.35, 0.15], [0.15, 0.35]]
AXES: Axes = {"data": {"a": [], "b": []}, "method": {"one": [], "two": []}}


@pytest.mark.parametrize(("weights", "distance", "nats"), [(XOR, 0.5, math.log(2)), (CORRELATED, 0.2, 0.0823)])
def test_the_product_of_marginals_is_as_far_away_as_the_documentation_says(
    weights: list[list[float]], distance: float, nats: float
) -> None:
    table = torch.tensor(weights, dtype=torch.float64)
    product = product_of_marginals(table)
    assert total_variation(product, table) == pytest.approx(distance)
    assert total_correlation(table) == pytest.approx(nats, abs=1e-4)
    assert total_correlation(product) == pytest.approx(0.0, abs=1e-9)


def test_a_perfect_sampler_is_at_no_distance() -> None:
    game = GaussianGame(XOR)
    found = judge(game.draw(4000, generator()), game, generator(1))
    assert found["total_variation"] < 0.03
    assert found["energy_distance"] < 0.01
    assert found["off_modes"] < 0.02
    assert found["total_correlation"] == pytest.approx(math.log(2), abs=0.01)


def test_a_product_of_perfect_marginals_is_caught_on_xor_and_not_on_a_product() -> None:
    for weights, distance in ((XOR, 0.5), ([[0.28, 0.42], [0.12, 0.18]], 0.0)):
        game = GaussianGame(weights)
        points = game.draw(4000, generator())
        shuffled = torch.stack([points[:, 0], points[torch.randperm(4000, generator=generator(2)), 1]], dim=1)
        found = judge(shuffled, game, generator(1))
        assert found["total_variation"] == pytest.approx(distance, abs=0.03)
        assert (found["energy_distance"] > 0.05) == (distance > 0)


def test_energy_distance_of_single_points_is_their_distance() -> None:
    """Twice |x - y| with one point each; in pooled deviations two points are sqrt(2) apart."""
    assert energy_distance(torch.tensor([[0.0]]), torch.tensor([[3.0]])) == pytest.approx(2 * math.sqrt(2))


def test_quadrants_are_rows_of_x1_and_columns_of_x2() -> None:
    points = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]])
    assert quadrant_table(points).tolist() == [[0.25, 0.5], [0.0, 0.25]]


def test_a_uniform_product_hits_distinct_targets_in_two_of_nine_cases() -> None:
    targets = torch.randint(3, (50_000, 3), generator=generator())
    assert float((count_distinct(targets) == 3).double().mean()) == pytest.approx(6 / 27, abs=0.01)
    assert count_distinct(torch.tensor([[0, 0, 0], [2, 0, 2], [1, 2, 0]])).tolist() == [1, 2, 3]


def test_a_heading_is_the_landmark_ahead() -> None:
    observations = torch.zeros(1, 1, 18)
    observations[0, 0, 4:10] = torch.tensor([1.0, 0.0, 0.0, 1.0, -1.0, -1.0])
    for action, landmark in (([0.5, 0.1], 0), ([0.0, 0.2], 1), ([-1.0, -0.7], 2)):
        assert headings(observations, torch.tensor([[action]])).item() == landmark


def test_the_demonstrations_are_judged_as_what_they_are() -> None:
    found = play(LandmarkTeam("random", 0.2), LandmarkGame(), seed=0)
    assert found["coverage"] >= 0.95
    assert found["distinct"] >= 0.95
    assert found["first_action_distinct"] >= 0.95
    assert 2.9 <= found["distinct_targets"] <= 3.0
    assert found["collisions"] > 0
    calm = play(LandmarkTeam("hungarian", 0.0), LandmarkGame(), seed=0)
    assert calm["collisions"] == 0
    assert calm["return_mean"] > found["return_mean"]


def cells(measured: Any) -> list[Cell]:
    results = {"last": {"certificate": {"passed": True}, "return_mean": 0.5}, "wall_seconds": 9.0}
    labels = [{"data": data, "method": method} for data in ("a", "b") for method in ("one", "two")]
    return [Cell(label, seed, results, measured) for label in labels for seed in (0, 1)]


def measured_gaussian() -> dict[str, Any]:
    game = GaussianGame(XOR)
    points = game.draw(200, generator())
    return judge(points, game, generator(1)) | {"weights": XOR, "points": points.tolist()}


def measured_landmark() -> dict[str, Any]:
    found = play(LandmarkTeam("fixed", 0.2), LandmarkGame(), seed=0)
    return found | {"demonstrations": found}


@pytest.mark.parametrize(
    ("study", "measured"), [(GaussianGameStudy, measured_gaussian), (LandmarkGameStudy, measured_landmark)]
)
def test_a_report_has_the_truth_before_the_methods_and_a_panel_each(study: type[Study], measured: Any) -> None:
    report = study(AXES, [0, 1]).report(cells(measured()))
    assert [row[:2] for row in report.rows] == [[data, m] for data in ("a", "b") for m in ("truth", "one", "two")]
    assert all(len(row) == len(report.columns) for row in report.rows)
    assert report.figure is not None
    titles: Sequence[str] = [axes.get_title() for axes in report.figure.axes]
    assert titles == [f"{data}: {method}" for data in ("a", "b") for method in ("truth", "one", "two")]
    assert len(report.results["measured"]) == 8
    assert set(report.results["truth"]) == {"a", "b"}
