"""The study of payoff games: closed forms, the IGM check, and its report."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.factorization import value
from dof_lightning.studies.base import Cell
from dof_lightning.studies.payoff_game import (
    PayoffGame,
    best_additive_fit,
    own_values,
    payoff_table,
    sample_values,
    satisfies_igm,
)
from tests.fixtures.small_spec import small_spec
from tests.fixtures.value_models import P1, game_spec, small_direct_value, small_dof_value

AXES = {"method": {"DoF": ["algorithm=dof_value"], "VDN": ["algorithm=direct_value"]}}


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("payoff", "fit"),
    [
        (table([1, 0], [18, 1]), table([5, -4], [14, 5])),  # P1 of the paper
        (table([4, 0], [14, 2]), table([6, -2], [12, 4])),
        (table([3, 4, 5], [1, 2, 3]), table([3, 4, 5], [1, 2, 3])),  # additive itself
    ],
)
def test_best_additive_fits_are_the_closed_forms(payoff: Tensor, fit: Tensor) -> None:
    torch.testing.assert_close(best_additive_fit(payoff), fit)


def test_the_additive_fit_is_the_least_squares_one_for_three_agents() -> None:
    payoff = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    indices = torch.cartesian_prod(*(torch.arange(n) for n in payoff.shape))
    design = torch.cat([torch.nn.functional.one_hot(of_agent) for of_agent in indices.unbind(1)], dim=1).double()
    solution = torch.linalg.lstsq(design, payoff.reshape(-1, 1), driver="gelsd").solution
    torch.testing.assert_close(best_additive_fit(payoff), (design @ solution).reshape(payoff.shape))


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ([[0.1, 0.9], [0.7, 0.2]], True),  # (1, 0), where 18 is
        ([[0.9, 0.1], [0.7, 0.2]], False),
        ([[0.1, 0.9], [0.2, 0.7]], False),
    ],
)
def test_igm_asks_whether_own_best_choices_are_the_best_joint_choice(values: list[list[float]], holds: bool) -> None:
    assert satisfies_igm([torch.tensor(of_agent) for of_agent in values], table(*P1)) is holds


def test_own_values_are_read_off_joint_draws() -> None:
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])
    joint = torch.stack([first[:, None].expand(2, 3), second.expand(2, 3)], dim=-1)
    assert [of_agent.tolist() for of_agent in own_values(joint)] == [first.tolist(), second.tolist()]


def test_samples_are_what_the_mixer_makes_of_the_agents_own_draws() -> None:
    algorithm = small_dof_value(game_spec(P1), value.Sum)
    values, mixed = sample_values(algorithm, torch.zeros(1, 2, 1), torch.Size([2, 2]), 50, seed=0)
    torch.testing.assert_close(mixed, 9.0 + 18.0 * values.sum(-1), rtol=1e-5, atol=1e-4)
    assert bool((values.std(0) > 0).all()), "untrained chains still depend on their noise"
    direct = small_direct_value(game_spec(P1), value.Sum)
    values, _ = sample_values(direct, torch.zeros(1, 2, 1), torch.Size([2, 2]), 50, seed=0)
    assert bool((values == values[:1]).all())
    assert bool((values[0, :, 0, 0] == values[0, :, 1, 0]).all()), "the first agent does not see the second's choice"


def measured(mean: list[list[float]], igm: bool) -> dict[str, Any]:
    return {"payoff": P1, "mean": mean, "std": [[0.0, 0.1], [0.0, 0.0]], "values": [[0, 1], [1, 0]], "igm": igm}


def test_the_report_carries_the_headlines_worst_error_over_seeds() -> None:
    results = {"last": {"return_mean": 18.0}}
    cells = [
        Cell({"method": "DoF"}, 0, results, measured([[1.0, 0.0], [18.0, 1.05]], igm=True)),
        Cell({"method": "DoF"}, 1, results, measured([[1.0, 0.0], [17.9, 1.0]], igm=False)),
        Cell({"method": "VDN"}, 0, results, measured([[5.0, -4.0], [14.0, 5.0]], igm=True)),
    ]
    report = PayoffGame(AXES, [0, 1], headline="DoF").report(cells)
    assert report.results["max_error"] == pytest.approx(0.1)
    assert report.results["max_errors"]["VDN"] == [4.0]
    rows = [dict(zip(report.columns, row, strict=True)) for row in report.rows]
    assert [row["method"] for row in rows] == ["best additive fit (closed form)", "DoF", "VDN"]
    assert [row["IGM"] for row in rows] == ["-", "1 of 2", "yes"]
    assert report.figure is not None
    assert sum(bool(axes.images) for axes in report.figure.axes) == 4


def test_a_checkpoint_is_measured_by_its_own_game() -> None:
    typed = ["experiment=game_payoff_1", "study=none", "denoiser.hidden=[8]", "algorithm.values.hidden=[8]"]
    config = configuration.to_plain(configuration.compose(typed))
    spec = game_spec(P1)
    weights = configuration.build(config["algorithm"])(spec=spec).state_dict()
    from_study = PayoffGame(AXES, [0], headline="DoF", samples=20)
    found = from_study.measure(
        Checkpoint(path=None, step=1, config=config, spec=spec, behavior={}, weights=weights), config
    )  # type: ignore[arg-type]
    assert found["payoff"] == P1
    assert torch.tensor(found["mean"]).shape == torch.tensor(found["std"]).shape == (2, 2)
    assert [len(of_agent) for of_agent in found["values"]] == [2, 2]


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match=r"study\.headline=QMIX is not a cell.*DoF; VDN"):
        PayoffGame(AXES, [0], headline="QMIX")
    with pytest.raises(UserError, match=r"study\.samples=1 must be at least 2"):
        PayoffGame(AXES, [0], headline="DoF", samples=1)
    with pytest.raises(UserError, match="not a matrix game"):
        payoff_table(small_spec().environment)
