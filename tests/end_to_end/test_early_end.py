"""Training that ends before its last step loses nothing, reports how to resume, and resumes."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from callbacks.interruption import Interruption, TimeLimit
from dof_lightning.errors import UserError
from dof_lightning.training import run as training
from dof_lightning.training import trainer
from tests.fixtures.workplace import SMALL, Workplace, run_here

RARELY = ("checkpoint.every_n_steps=1000", "rollout.every_n_steps=1000", "validation.every_n_steps=1000")


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, heard_signals: None) -> None:
    monkeypatch.chdir(workplace.path)


def train(*overrides: str) -> None:
    run_here(*SMALL, *RARELY, *overrides)


def test_time_that_is_over(workplace: Workplace, capsys: pytest.CaptureFixture) -> None:
    limited = ("run_dir=timed", "trainer.max_steps=100000", "trainer.max_time=00:00:00:01")
    train(*limited)
    assert "stopped by trainer.max_time=00:00:00:01 at step" in capsys.readouterr().out
    steps = workplace.results("timed")["steps"]
    assert 0 < steps < 100000
    assert workplace.checkpoint("timed")["global_step"] == steps
    train(*limited)
    assert "is finished" in capsys.readouterr().out, "the same limit is reached already"
    train("run_dir=timed", f"trainer.max_steps={steps + 2}")
    results = workplace.results("timed")
    assert (results["resumed_from_step"], results["steps"]) == (steps, steps + 2)


def test_a_finished_run_keeps_its_results_until_more_can_be_trained(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("run_dir=kept", "trainer.max_steps=2")
    before = workplace.results("kept"), (workplace.path / "kept" / "config.yaml").read_text()

    def unreadable(*_: Any, **__: Any) -> None:
        raise UserError("a shard has another sha256")

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", unreadable)
        with pytest.raises(UserError, match="another sha256"):
            train("run_dir=kept", "trainer.max_steps=4")
    assert (workplace.results("kept"), (workplace.path / "kept" / "config.yaml").read_text()) == before
    left: list[bool] = []
    fit = training.fit

    def watched(*others: Any, **named: Any) -> None:
        fit(*others, **named)
        left.append((workplace.path / "kept" / "results.json").exists())

    monkeypatch.setattr(training, "fit", watched)
    train("run_dir=kept", "trainer.max_steps=4")
    assert left == [False], "results of a shorter run would not be those of the checkpoint, if it is killed now"
    assert workplace.results("kept")["steps"] == 4
    assert "max_steps: 4" in (workplace.path / "kept" / "config.yaml").read_text()


def test_time_that_is_over_at_once() -> None:
    with pytest.raises(UserError, match=r"trainer\.max_time=00:00:00:00 ended before the first step"):
        train("run_dir=no_time", "trainer.max_time=00:00:00:00")


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGINT, 7), (signal.SIGTERM, 7), (signal.SIGHUP, 20)], ids=lambda value: f"{value:d}"
)
def test_an_interrupted_run_goes_on(
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    number: signal.Signals,
    step: int,
) -> None:
    """The run ends after the last of 20 steps, with its evaluation."""

    class Interrupted(Interruption):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.global_step == step:
                os.kill(os.getpid(), number)
            super().on_train_batch_end(trainer, *arguments)

    run_dir = f"interrupted_{number.name}"
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(training, "Interruption", Interrupted)
    with pytest.raises(SystemExit) as ended:
        train(f"run_dir={run_dir}")
    assert ended.value.code == 128 + number
    assert f"{number.name}: stopped and saved at step {step}; the same command" in capsys.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert not (workplace.path / run_dir / "results.json").exists(), "it is not finished"
    assert workplace.checkpoint(run_dir)["global_step"] == step

    monkeypatch.undo()
    monkeypatch.chdir(workplace.path)
    train(f"run_dir={run_dir}")
    results = workplace.results(run_dir)
    assert (results["resumed_from_step"], results["steps"]) == (step, 20)


class SignalInTheMiddle(Interruption):
    """A signal comes after two of the third step's three batches."""

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_train_batch_end(trainer, *arguments)


class OverInTheMiddle(TimeLimit):
    """The time is over after two of the third step's three batches."""

    def on_train_batch_end(self, trainer: Any, *arguments: Any, **options: Any) -> None:
        self._offset = 1e9 if trainer.fit_loop.epoch_loop.total_batch_idx >= 7 else 0
        super().on_train_batch_end(trainer, *arguments, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "early"),
    [(training, "Interruption", SignalInTheMiddle), (trainer, "TimeLimit", OverInTheMiddle)],
    ids=["signal", "time"],
)
def test_accumulated_batches_are_not_torn_apart(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, early: type
) -> None:
    accumulated = ("trainer.accumulate_grad_batches=3", "trainer.max_steps=5", "seed=3")
    run_dir = f"torn_{name}"
    with monkeypatch.context() as patched:
        patched.setattr(module, name, early)
        with suppress(SystemExit):
            train(*accumulated, "trainer.max_time=01:00:00:00", f"run_dir={run_dir}")
    assert workplace.checkpoint(run_dir)["global_step"] == 3
    train(*accumulated, f"run_dir={run_dir}")
    train(*accumulated, f"run_dir=whole_{name}")
    assert workplace.results(run_dir)["resumed_from_step"] == 3
    ours, theirs = (workplace.checkpoint(folder)["state_dict"] for folder in (run_dir, f"whole_{name}"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_results_are_not_those_of_an_earlier_step(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    replace = os.replace

    def full_at_the_end(source: Path, target: Path) -> None:
        if target.name == "last.ckpt" and torch.load(source, weights_only=True)["global_step"] > 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    often = ("trainer.max_steps=4", "checkpoint.every_n_steps=2", "run_dir=full", "seed=4")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full_at_the_end)
        with pytest.raises(UserError, match=r"could not be saved at step 4, .* of step 2"):
            train(*often)
    assert not (workplace.path / "full" / "results.json").exists()
    train(*often)
    assert (workplace.results("full")["resumed_from_step"], workplace.results("full")["steps"]) == (2, 4)
