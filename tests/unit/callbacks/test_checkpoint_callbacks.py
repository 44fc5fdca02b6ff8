"""Checkpoints: whole or absent, exactly two, and the best score survives resuming and moving."""

import errno
import logging
import os
import pickle
import resource
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint, checkpoint_callbacks
from dof_lightning.errors import UserError
from tests.fixtures.processes import exit_code, start
from tests.fixtures.toy_world import ToyModule, toy_loader, toy_run
from tests.fixtures.trainers import quiet_trainer

MOMENTS = ("pickling", "fsync", "replace")


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Bomb:
    __reduce__ = _die


def killed(folder: Path, moment: str) -> None:
    checkpoint = {"step": 2, "weight": torch.zeros(1000)}
    if moment == "pickling":
        checkpoint["bomb"] = Bomb()
    else:
        setattr(os, moment, _die)
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / moment / "last.ckpt")


def full_disk(folder: Path) -> None:
    logging.getLogger("callbacks.checkpoint").addHandler(logging.FileHandler(folder / "messages"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    checkpoint_io = AtomicCheckpointIO()
    checkpoint_io.save_checkpoint({"step": 2, "weight": torch.zeros(100_000)}, folder / "full_disk" / "last.ckpt")
    os._exit(0 if isinstance(checkpoint_io.last_error, OSError) else 1)


@dataclass
class Accidents:
    folder: Path
    exit_codes: dict[str, int]
    messages: str


@pytest.fixture(scope="module")
def accidents(tmp_path_factory: pytest.TempPathFactory) -> Accidents:
    folder = tmp_path_factory.mktemp("accidents")
    kinds = (*MOMENTS, "full_disk")
    for kind in kinds:
        AtomicCheckpointIO().save_checkpoint({"step": 1}, folder / kind / "last.ckpt")
    processes = {moment: start(killed, folder, moment) for moment in MOMENTS} | {"full_disk": start(full_disk, folder)}
    codes = {kind: exit_code(process) for kind, process in processes.items()}
    return Accidents(folder, codes, (folder / "messages").read_text().strip())


class Scores(Callback):
    """Logs a given score at each step, as rollouts would."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pl_module.log("score", self.scores[trainer.global_step - 1])


def train(folder: Path, scores: tuple[float, ...], resume: bool = False, last: int = 2, best: int = 1, **options):
    torch.manual_seed(0)
    callbacks = [*checkpoint_callbacks(toy_run(folder=folder), last, "score", best), Scores(*scores)]
    trainer = quiet_trainer(
        max_steps=len(scores),
        folder=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        **options,
    )
    trainer.fit(ToyModule(), toy_loader(), ckpt_path=str(folder / "last.ckpt") if resume else None)
    return trainer


def saved_step(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_saving_leaves_the_old_checkpoint(accidents: Accidents, moment: str) -> None:
    assert accidents.exit_codes[moment] == -signal.SIGKILL
    path = accidents.folder / moment / "last.ckpt"
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}


def test_what_a_killed_process_left_is_cleared_away(accidents: Accidents, tmp_path: Path) -> None:
    folder = shutil.copytree(accidents.folder / "replace", tmp_path / "run")
    assert len(names(folder)) == 2, "the killed process left its unfinished file"
    AtomicCheckpointIO().save_checkpoint({"step": 3}, folder / "last.ckpt")
    assert names(folder) == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt") == {"step": 3}


def test_full_disk_keeps_the_old_checkpoint_and_goes_on(accidents: Accidents) -> None:
    assert accidents.exit_codes["full_disk"] == 0
    path = accidents.folder / "full_disk" / "last.ckpt"
    assert len(accidents.messages.splitlines()) == 1
    assert str(path) in accidents.messages
    assert "File too large" in accidents.messages
    assert names(path.parent) == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}


def test_what_cannot_be_pickled_is_a_defect_not_a_warning(tmp_path: Path) -> None:
    class Local:
        pass

    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint({"object": Local()}, tmp_path / "last.ckpt")
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_damaged_file_gives_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read") as error:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert "resume=" in str(error.value)


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save({"attack": Attack()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert names(tmp_path) == ["last.ckpt"]


def test_exactly_last_and_best_overwritten_in_place(tmp_path: Path) -> None:
    train(tmp_path, (1.0, 3.0, 2.0, 5.0, 4.0))
    assert names(tmp_path) == ["best.ckpt", "last.ckpt"]
    assert saved_step(tmp_path / "best.ckpt") == 4
    assert saved_step(tmp_path / "last.ckpt") == 5, "the last step is saved though it is no multiple of two"


def test_best_looks_only_where_rollouts_are_due(tmp_path: Path) -> None:
    train(tmp_path, (9.0, 1.0, 8.0, 2.0, 7.0, 0.0), best=2)
    assert saved_step(tmp_path / "best.ckpt") == 4


def test_an_epoch_that_ends_or_a_score_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    train(tmp_path, (float("nan"), 2.0, float("nan"), 1.0), limit_train_batches=2)
    assert saved_step(tmp_path / "best.ckpt") == 2


@pytest.mark.parametrize("moved", [False, True])
def test_best_score_survives_resuming(tmp_path: Path, moved: bool) -> None:
    folder = tmp_path / "run"
    train(folder, (1.0, 5.0, 2.0, 3.0))
    if moved:
        folder = Path(shutil.move(folder, tmp_path / "moved"))
    trainer = train(folder, (0.0, 0.0, 0.0, 0.0, 4.0, 4.5), resume=True)
    assert saved_step(folder / "best.ckpt") == 2
    assert saved_step(folder / "last.ckpt") == 6
    assert (trainer.checkpoint_callback.best_score, trainer.checkpoint_callback.best_step) == (5.0, 2)
    assert trainer.checkpoint_callback.best_model_path == str(folder / "best.ckpt")
    train(folder, (*[0.0] * 6, 6.0), resume=True)
    assert saved_step(folder / "best.ckpt") == 7
    assert names(folder) == ["best.ckpt", "last.ckpt"]


def test_best_starts_anew_where_its_file_is_gone(tmp_path: Path) -> None:
    train(tmp_path, (1.0, 5.0, 2.0, 3.0))
    (tmp_path / "best.ckpt").unlink()
    train(tmp_path, (0.0, 0.0, 0.0, 0.0, 4.0), resume=True)
    assert saved_step(tmp_path / "best.ckpt") == 5


def test_best_score_is_the_one_whose_file_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, attempts = os.replace, []

    def full_at_the_second_best(source: Path, target: Path) -> None:
        attempts.append(target.name)
        if attempts.count("best.ckpt") == 2 and target.name == "best.ckpt":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_at_the_second_best)
    trainer = train(tmp_path, (1.0, 5.0, 4.0))
    assert attempts.count("best.ckpt") == 3, "4 beats 1, since 5 was never saved"
    assert trainer.checkpoint_callback.best_score == 4.0
    assert saved_step(tmp_path / "best.ckpt") == 3


class Broken(Callback):
    """Makes a weight infinite at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            next(iter(pl_module.parameters())).data.view(-1)[0] = float("inf")


def test_weights_that_are_not_finite_replace_no_good_ones(tmp_path: Path) -> None:
    trainer = quiet_trainer(
        max_steps=6,
        plugins=[AtomicCheckpointIO()],
        callbacks=[LastCheckpoint(tmp_path, 2), Broken(3)],
    )
    with pytest.raises(UserError, match=r"diverged.*step 4.*q_weight"):
        trainer.fit(ToyModule(), toy_loader())
    assert saved_step(tmp_path / "last.ckpt") == 2


def test_a_save_that_failed_is_tried_again_and_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = [], torch.save

    def full_at_first(content, file):
        written.append(content["global_step"])
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full_at_first)
    last = LastCheckpoint(tmp_path, 2)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**options, max_steps=2, plugins=[AtomicCheckpointIO()], callbacks=[last])
    trainer.fit(ToyModule(), toy_loader())
    assert written == [2, 2], "once where it was due, and again at the end"
    assert last.saved_step == saved_step(tmp_path / "last.ckpt") == 2


def test_last_knows_the_best_score_of_its_step(tmp_path: Path) -> None:
    train(tmp_path, (1.0, 5.0))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["BestCheckpoint"]
    assert state == {"best_score": 5.0, "best_step": 2}


def test_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    class Deterministic(ToyModule):
        def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
            torch.manual_seed(self.global_step)
            return super().training_step(batch, batch_index)

    def fit(folder: Path, max_steps: int, ckpt_path: str | None = None) -> ToyModule:
        module = Deterministic()
        trainer = quiet_trainer(
            max_steps=max_steps,
            plugins=[AtomicCheckpointIO()],
            callbacks=checkpoint_callbacks(toy_run(folder=folder), 5, "score", 5),
        )
        # One repeated batch: which rows follow a resume is the data module's subject.
        rows = next(iter(toy_loader())).repeat(100, 1, 1)
        trainer.fit(module, DataLoader(rows, batch_size=8), ckpt_path=ckpt_path)
        return module

    whole = fit(tmp_path / "whole", 9)
    fit(tmp_path / "halves", 5)
    resumed = fit(tmp_path / "halves", 9, str(tmp_path / "halves" / "last.ckpt"))
    assert torch.equal(whole.actor.weight, resumed.actor.weight)
