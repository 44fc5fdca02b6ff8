"""Whenever a signal comes: what has been trained is saved, the exit code names it, and it is not forgotten."""

import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.interruption import Interruption
from dof_lightning.training.fit import fit
from dof_lightning.training.run_folder import RunFolder
from dof_lightning.training.start import Start
from tests.fixtures.processes import exit_code, start
from tests.fixtures.toy_world import ToyModule, toy_loader
from tests.fixtures.trainers import quiet_trainer

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEPS = 6


class SignalAt(Callback):
    """Comes in one hook, at one step."""

    def __init__(self, number: signal.Signals, hook: str, step: int) -> None:
        self.steps: list[int] = []

        def arrive(trainer: Trainer, *_: Any, **__: Any) -> None:
            self.steps.append(trainer.global_step)
            if trainer.global_step == step:
                os.kill(os.getpid(), number)

        setattr(self, hook, arrive)


class SignalWhileSaving(SignalAt, Checkpoint):
    """After all callbacks but those that save."""


class Loud(Callback):
    """Writes to the terminal, as progress does."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        os.write(1, f"step {trainer.global_step}\n".encode())


def train(folder: Path, *others: Callback) -> None:
    """Trains as a run does."""
    interruption, last = Interruption(), LastCheckpoint(folder, every_n_steps=100)
    trainer = quiet_trainer(
        max_steps=STEPS,
        folder=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=[*others, interruption, last],
    )
    where: Any = Start(RunFolder(folder), None)
    try:
        data: Any = toy_loader()
        fit(trainer, ToyModule(), data, where, lambda: interruption.received, lambda: last.saved_step, folder)
    finally:
        interruption.give_back()


@pytest.fixture(autouse=True)
def _handlers_are_given_back(heard_signals: None) -> Iterator[None]:
    before = [signal.getsignal(number) for number in HEARD]
    yield
    assert [signal.getsignal(number) for number in HEARD] == before


def saved_step(folder: Path) -> int:
    step: int = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    return step


@pytest.mark.parametrize("number", HEARD)
@pytest.mark.parametrize("kind", [SignalAt, SignalWhileSaving])
@pytest.mark.parametrize("step", [3, STEPS])
def test_a_signal_among_the_callbacks_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture, number: signal.Signals, kind: type[SignalAt], step: int
) -> None:
    """While rolling out, say, and in the last step too, after which it would be evaluated."""
    arriving = kind(number, "on_train_batch_end", step)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, arriving)
    assert ended.value.code == 128 + number
    last = min(step + (kind is SignalWhileSaving), STEPS)
    assert arriving.steps[-1] == saved_step(tmp_path) == last
    assert f"{number.name}: stopped and saved at step {last}; the same command" in capsys.readouterr().err


def test_the_first_signal_is_answered_at_once(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, SignalAt(signal.SIGTERM, "on_train_batch_end", 3))
    answer, goodbye = capfd.readouterr().err.splitlines()
    assert answer.startswith("SIGTERM: ends after this step")
    assert goodbye.startswith("SIGTERM: stopped and saved")


def test_ctrl_c_before_the_first_step_ends_as_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SignalAt(signal.SIGINT, "on_fit_start", 0))


def test_a_second_ctrl_c_ends_it_where_it_stands(tmp_path: Path) -> None:
    twice = [SignalAt(signal.SIGINT, hook, 3) for hook in ("on_train_batch_start", "on_before_backward")]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, *twice)
    assert not (tmp_path / "last.ckpt").exists()


def signalled_at_start(folder: Path) -> None:
    train(folder, SignalAt(signal.SIGTERM, "on_fit_start", 0))


def in_a_terminal(folder: Path, ignore: bool) -> None:
    """A session of its own, whose terminal goes away at the third step."""
    os.setsid()
    ours, theirs = pty.openpty()
    os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # it becomes the session's
    for descriptor in (1, 2):
        os.dup2(theirs, descriptor)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignore else signal.SIG_DFL)
    if ignore:
        os.dup2(os.open(folder / "nohup.out", os.O_CREAT | os.O_WRONLY), 1)

    class HangUp(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step == 2:
                os.close(ours)

    code = 0
    try:
        train(folder, HangUp(), Loud())
    except SystemExit as ended:
        code = int(str(ended.code))
    # multiprocessing would flush what the lost terminal never took, and exit with 1; `train.py` does not.
    os._exit(code)


@pytest.mark.parametrize("ignored", [False, True], ids=["hung up", "nohup"])
def test_a_run_whose_terminal_is_gone_saves_and_stops_unless_it_was_told_not_to(tmp_path: Path, ignored: bool) -> None:
    code = exit_code(start(in_a_terminal, tmp_path, ignored))
    assert code == (0 if ignored else 128 + signal.SIGHUP)
    assert saved_step(tmp_path) == (STEPS if ignored else 3)


def test_sigterm_before_the_first_step_ends_the_process_at_once(tmp_path: Path) -> None:
    assert exit_code(start(signalled_at_start, tmp_path)) == -signal.SIGTERM
    assert not (tmp_path / "last.ckpt").exists()
