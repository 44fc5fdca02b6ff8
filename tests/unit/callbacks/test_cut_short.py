"""Measurements between two steps are cut short by a signal, and repeated before a resumed run trains on."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.checkpoint import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from callbacks.interruption import Interruption
from callbacks.rollout import RolloutCallback
from callbacks.step_schedule import GivenUp
from callbacks.video import VideoCallback
from dof_lightning.envs.base import StepResult
from dof_lightning.evaluation.igd import Effort, gauge
from dof_lightning.training.fit import fit
from dof_lightning.training.run_folder import RunFolder
from dof_lightning.training.start import Start
from tests.fixtures.policy_models import small_dof_policy
from tests.fixtures.toy_world import ACTION_DIM, N_AGENTS, OBSERVATION_DIM, ToyEnv, ToyModule, toy_run
from tests.fixtures.trainers import quiet_trainer

EVERY, STEPS = 3, 6
PLAYED, CERTIFIED = 3 * 6, 6  # steps of the world: ten episodes of six steps, four at once
DRAWN = PLAYED + CERTIFIED + 6


class Counted(ToyEnv):
    """Counts its steps; a signal comes in one of them."""

    def __init__(self, signal_at: int | None) -> None:
        super().__init__()
        self.signal_at, self.count = signal_at, 0

    def step(self, actions: Tensor) -> StepResult:
        self.count += 1
        if self.count == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(actions)


class Repeatable(ToyModule):
    """Draws nothing, so that a resumed training equals an uninterrupted one; a signal may come in a held-out batch."""

    def __init__(self, signal_at: int | None) -> None:
        super().__init__()
        self.signal_at, self.heldout = signal_at, 0
        self.actor.dropout.p = 0.0

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        carry = self.actor.initial_carry(len(batch), batch.device)
        actions, _ = self.actor.act_on_noise(batch, carry, None, torch.zeros(*batch.shape[:2], ACTION_DIM))
        return (actions - 0.5).square().mean()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.heldout += 1
        if self.heldout == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.log("heldout/loss", self.training_step(batch, batch_index) * (1 + batch_index), on_epoch=True)


class Windows(LightningDataModule):
    """The same batch for ever, and four others held out."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([torch.full((8, N_AGENTS, OBSERVATION_DIM), 0.5)] * 100, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([torch.full((8, N_AGENTS, OBSERVATION_DIM), 0.1 * i) for i in range(4)], batch_size=None)


@dataclass
class Training:
    """One process of a run: what it counted, how it ended."""

    env: Counted
    module: Repeatable
    ended: int | None
    best: BestCheckpoint


def train(folder: Path, in_world: int | None = None, in_heldout: int | None = None, resume: bool = False) -> Training:
    interruption, last = Interruption(), LastCheckpoint(folder, every_n_steps=EVERY)
    env, module = Counted(in_world), Repeatable(in_heldout)
    run = replace(toy_run(env, folder=folder), check_stop=interruption.check_stop)
    best = BestCheckpoint(folder, "rollout/return_mean", EVERY)
    rollouts = RolloutCallback(run, 10, EVERY, chunk=4, until_plateau=1)
    trainer = quiet_trainer(
        folder,
        max_steps=STEPS,
        plugins=[AtomicCheckpointIO()],
        callbacks=[rollouts, VideoCallback(run, EVERY), interruption, best, last],
        logger=TensorBoardLogger(folder, name="", version=""),
        val_check_interval=EVERY,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    start, ended = Start(RunFolder(folder), folder / "last.ckpt" if resume else None), None
    torch.manual_seed(0)
    try:
        fit(trainer, module, Windows(), start, lambda: interruption.received, lambda: last.saved_step, folder)
    except SystemExit as error:
        ended = int(str(error.code))
    finally:
        interruption.give_back()
    return Training(env, module, ended, best)


def curves(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Every value on the charts but of speed, by tag and step; the videos by their files."""
    events = EventAccumulator(str(folder))
    events.Reload()
    found: dict[tuple[str, int], list[float]] = {}
    for tag in set(events.Tags()["scalars"]) - {"rollout/steps_per_second", "epoch"}:
        for event in events.Scalars(tag):
            found.setdefault((tag, event.step), []).append(event.value)
    return found


def content(folder: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return read


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert train(folder).ended is None
    return folder


CUTS = {
    "rollout": {"in_world": 7},
    "certificate": {"in_world": PLAYED + 3},
    "video": {"in_world": PLAYED + CERTIFIED + 2},
    "rollout of the last step": {"in_world": DRAWN + 7},
    "video of the last step": {"in_world": DRAWN + PLAYED + CERTIFIED + 2},
    "held-out pass": {"in_heldout": 2},
    "held-out pass of the last step": {"in_heldout": 4 + 2},
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_measurement_stops_at_once_and_a_resumed_run_has_the_scores_of_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Path, cut: str
) -> None:
    first = train(tmp_path, **CUTS[cut])
    step = STEPS if "last step" in cut else EVERY
    assert first.ended == 128 + signal.SIGTERM
    assert content(tmp_path, "last")["global_step"] == step
    if "in_world" in CUTS[cut]:
        assert first.env.count == CUTS[cut]["in_world"], "not a step more"
        assert first.module.heldout <= (step // EVERY - 1) * 4 + 1
    else:
        assert first.module.heldout == CUTS[cut]["in_heldout"]
    selected = step == STEPS or cut in ("video", "held-out pass")
    assert (tmp_path / "best.ckpt").exists() == selected, "a score that was given up selects nothing"

    second = train(tmp_path, resume=True)
    assert second.ended is None
    assert curves(tmp_path) == curves(uninterrupted)
    for name in ("last", "best"):
        ours, theirs = content(tmp_path, name), content(uninterrupted, name)
        assert ours["global_step"] == theirs["global_step"]
        assert all(torch.equal(ours["state_dict"][key], value) for key, value in theirs["state_dict"].items())
    if step != STEPS:  # after the last one nothing is saved any more
        assert content(tmp_path, "last")["callbacks"] == content(uninterrupted, "last")["callbacks"]
    assert second.best.state_dict() == content(uninterrupted, "last")["callbacks"]["BestCheckpoint"]
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in (uninterrupted / "videos").iterdir()}


def test_a_checkpoint_says_nothing_of_measurements_that_are_whole(uninterrupted: Path) -> None:
    states = content(uninterrupted, "last")["callbacks"]
    assert set(states) == {"BestCheckpoint", "RolloutCallback"}
    assert set(states["RolloutCallback"]) == {"scores", "step"}


def test_the_gauge_asks_before_each_pass_through_a_network() -> None:
    def stop_at(most: int) -> Callable[[], None]:
        left = iter(range(most))

        def check() -> None:
            if next(left, None) is None:
                raise GivenUp

        return check

    effort = Effort(conditions=1, draws=32, permutations=20, rows=2)
    policy = small_dof_policy().policy()
    whole = gauge(policy, ToyEnv(), 0, effort)
    with pytest.raises(GivenUp):
        gauge(policy, ToyEnv(), 0, effort, stop_at(3))
    assert gauge(policy, ToyEnv(), 0, effort, stop_at(10_000)) == whole, "the policy is as it was"
