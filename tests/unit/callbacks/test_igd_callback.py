"""The IGD gauge in a real training: it logs, and the training does not notice."""

import math
from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks.igd import IGDCallback
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.errors import UserError
from dof_lightning.evaluation.igd import Effort, gauge
from dof_lightning.factorization import noise
from tests.fixtures.policy_models import cloning, small_batch, small_dof_policy
from tests.fixtures.toy_world import ToyEnv, ToyModule, toy_loader, toy_run
from tests.fixtures.trainers import quiet_trainer
from tests.fixtures.trajectory_models import small_dof_trajectory, small_windows

EFFORT = {"conditions": 1, "draws": 32, "permutations": 20, "rows": 2}


def measuring(every_n_steps: int | None = 3) -> IGDCallback:
    return IGDCallback(toy_run(), every_n_steps=every_n_steps, **EFFORT)


def train(folder: Path, model: Algorithm | ToyModule, loader: object, *callbacks: Callback) -> EventAccumulator:
    torch.manual_seed(0)
    trainer = quiet_trainer(
        max_steps=7,
        callbacks=list(callbacks),
        logger=TensorBoardLogger(folder, name="", version=""),
    )
    trainer.fit(model, loader)
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def batches(model: Algorithm, trajectory: bool = False) -> DataLoader:
    made = [small_windows(model, 8, s) if trajectory else small_batch(model.spec, 8, s) for s in range(10)]
    return DataLoader(made, batch_size=None)


def test_a_game_with_a_known_law_shows_what_no_product_represents(tmp_path: Path) -> None:
    model, callback = small_dof_policy(), measuring()
    callback.env.law = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    events = train(tmp_path, model, batches(model), callback)
    assert events.Scalars("igd/coordination_gap")[-1].value == pytest.approx(math.log(2))


@pytest.mark.parametrize("trajectory", [False, True])
def test_the_gauge_is_logged_every_n_steps_and_at_the_last(tmp_path: Path, trajectory: bool) -> None:
    model = small_dof_trajectory() if trajectory else small_dof_policy()
    events = train(tmp_path, model, batches(model, trajectory), measuring())
    names = ("jacobian_ratio", "pathwise_error", "energy_distance", "p_value", "control_p_value")
    tags = {f"igd/{name}" for name in (*names, "hsic", "hsic_p_value", "c2st_accuracy")}
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("igd/")} == tags
    for tag in tags:
        assert [event.step for event in events.Scalars(tag)] == [3, 6, 7]
    expected = gauge(model.policy(), ToyEnv(), 0, Effort(**EFFORT))
    assert events.Scalars("igd/energy_distance")[-1].value == pytest.approx(expected.energy_distance, rel=1e-5)
    assert events.Scalars("igd/jacobian_ratio")[-1].value == 0


def test_a_centralised_chain_shows_and_has_no_path_of_its_own(tmp_path: Path) -> None:
    model = small_dof_policy(**cloning(noise_factorization=noise.QMix, execution="centralized"))
    events = train(tmp_path, model, batches(model), measuring())
    assert events.Scalars("igd/jacobian_ratio")[-1].value > 0
    assert "igd/pathwise_error" not in events.Tags()["scalars"]


def test_the_training_does_not_notice(tmp_path: Path) -> None:
    weights = []
    for name, callbacks in (("with", [measuring()]), ("without", [])):
        model = small_dof_policy()
        train(tmp_path / name, model, batches(model), *callbacks)
        weights.append(model.state_dict())
        weights[-1]["global"] = torch.get_rng_state()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_null_turns_it_off(tmp_path: Path) -> None:
    model = small_dof_policy()
    events = train(tmp_path, model, batches(model), measuring(every_n_steps=None))
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("igd/")]


def test_an_algorithm_without_a_joint_chain_says_so_in_one_line(tmp_path: Path, capsys) -> None:
    events = train(tmp_path, ToyModule(), toy_loader(), measuring())
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("igd/")]
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("igd: ")] == [
        "igd: this algorithm has no joint chain of f and h, nothing is measured"
    ]


def test_wrong_settings_are_refused() -> None:
    for key, value in (("draws", 2), ("every_n_steps", 0), ("conditions", 0)):
        with pytest.raises(UserError, match=f"{key}={value}"):
            IGDCallback(toy_run(), **{"every_n_steps": 1, **EFFORT, key: value})
