"""Data without a spread: all episodes return the same, or nothing at all, and nothing is blown up by it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from dof_lightning import console
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.algorithms.parts.critics import TeamCritic
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.spec import DatasetSpec
from tests.fixtures.synthetic import build_algorithm, random_batch, synthetic_spec, training_step

LEARN_VALUES = ("dof_policy", "td3_bc", "macql", "omar", "maicq", "qmix", "mabcq", "macql_discrete", "maicq_discrete")


def _all_return(value: float, *overrides: str, spread: float = 0.0) -> DatasetSpec:
    spec = synthetic_spec(*overrides)
    knots = np.full(11, value, dtype=np.float32)
    statistics = replace(spec.statistics, return_mean=value, return_std=spread, discounted_return_knots=knots)
    return replace(spec, statistics=statistics)


def _reward_scale(algorithm: Algorithm) -> float:
    critic = getattr(algorithm, "critic", algorithm)
    return float(critic.reward_scale)


@pytest.mark.parametrize("name", LEARN_VALUES)
def test_rewards_keep_their_unit_where_all_episodes_return_the_same(name: str) -> None:
    overrides = (f"algorithm={name}",)
    for spread in (0.0, 1e-9):  # what is left of equal returns after rounding is no spread either
        algorithm = build_algorithm(*overrides, spec=_all_return(20.0, *overrides, spread=spread))
        assert _reward_scale(algorithm) == 1.0
    (remark,) = algorithm.remarks()
    assert "return 20" in remark
    assert "algorithm.reward_scale" in remark
    loss = training_step(algorithm, algorithm.configure_optimizers(), random_batch(algorithm.spec, algorithm.window), 0)
    assert float(loss) < 1e3


def test_a_spread_scales_rewards_to_one_and_needs_no_remark() -> None:
    algorithm = build_algorithm("algorithm=td3_bc", spec=_all_return(-50.0, spread=4.0))
    assert (_reward_scale(algorithm), algorithm.remarks()) == (0.25, [])


def test_a_scale_that_is_typed_needs_no_remark() -> None:
    typed = ("algorithm=td3_bc", "algorithm.reward_scale=0.5")
    algorithm = build_algorithm(*typed, spec=_all_return(20.0))
    assert isinstance(algorithm.critic, TeamCritic)
    assert (algorithm.critic.reward_scale, algorithm.remarks()) == (0.5, [])
    assert build_algorithm("algorithm=dof_cloning", spec=_all_return(20.0)).remarks() == []  # learns no values


@pytest.mark.parametrize("name", ["dof_trajectory", "madiff_c", "madt"])
def test_returns_keep_their_unit_where_the_data_earn_nothing(name: str) -> None:
    overrides = (f"algorithm={name}",)
    algorithm = build_algorithm(*overrides, spec=_all_return(0.0, *overrides))
    assert algorithm.returns_scale == 1.0
    assert algorithm.target_return == 0.0
    (remark,) = algorithm.remarks()
    assert "algorithm.returns_scale" in remark
    assert build_algorithm(*overrides, spec=_all_return(-4.0, *overrides)).returns_scale == 4.0


def test_there_is_no_value_to_learn_where_returns_differ_by_rounding_only() -> None:
    spec = _all_return(20.0)
    knots = np.linspace(20.0, np.nextafter(np.float32(20), np.float32(21)), 11).astype(np.float32)
    spec = replace(spec, statistics=replace(spec.statistics, discounted_return_knots=knots))
    with pytest.raises(UserError, match="every return is 20, there is no value to learn"):
        build_algorithm("algorithm=direct_value", spec=spec)


def test_the_screen_says_once_that_rewards_keep_their_unit() -> None:
    algorithm = build_algorithm("algorithm=td3_bc", spec=_all_return(20.0))
    config = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", "algorithm=td3_bc"]))
    screen = Console(record=True, width=200, file=io.StringIO())
    console.show_start(screen, config, algorithm.spec, algorithm, "one core", "here")
    assert screen.export_text().count("rewards keep their own unit") == 1
