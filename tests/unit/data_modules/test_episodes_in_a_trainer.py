"""The DataModule in a trainer: a resumed run sees what the uninterrupted one saw."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.errors import UserError
from tests.fixtures.episode_data import _many_are_held_out, hold_out, keys, make_data
from tests.fixtures.streamed_data import build_shards, memory_for
from tests.fixtures.trainers import quiet_trainer

__all__ = ["_many_are_held_out"]


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[tuple[int, int]]] = []

    def training_step(self, batch: EpisodeBatch, batch_index: int) -> Tensor:
        self.seen.append(keys(batch))
        return self.weight * batch.rewards.mean()

    def validation_step(self, batch: EpisodeBatch, batch_index: int) -> None:
        assert batch.size

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, max_steps: int, **options: Any) -> Trainer:
    checkpoints = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=7, save_top_k=-1)
    return quiet_trainer(
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=[checkpoints],
        **({"val_check_interval": 5, "check_val_every_n_epoch": None} | options),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("num_workers", "accumulate"), [(0, 1), (0, 3), (2, 1)])
def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(
    tmp_path: Path, num_workers: int, accumulate: int, streamed: bool
) -> None:
    options = {"accumulate_grad_batches": accumulate}
    whole = Recorder()
    build_shards(tmp_path / "toy")
    memory_mb = memory_for(tmp_path / "toy") if streamed else None
    data = make_data(tmp_path / "toy", Window(0, 1), memory_mb=memory_mb)
    assert ("streamed" in data.state_dict()["order"]) is streamed
    trainer(tmp_path / "whole", 32, **options).fit(whole, datamodule=data)
    assert len(whole.seen) == 32 * accumulate

    data = make_data(tmp_path / "toy", Window(0, 1), num_workers=num_workers, memory_mb=memory_mb)
    trainer(tmp_path / "cut", 17, **options).fit(Recorder(), datamodule=data)
    for step in (7, 14):
        resumed = Recorder()
        data = make_data(tmp_path / "toy", Window(0, 1), num_workers=num_workers, memory_mb=memory_mb)
        checkpoint = tmp_path / "cut" / "checkpoints" / f"step={step}.ckpt"
        trainer(tmp_path / f"from_{step}", 32, **options).fit(resumed, datamodule=data, ckpt_path=checkpoint)
        assert resumed.seen == whole.seen[step * accumulate :]


@pytest.mark.filterwarnings("ignore")
def test_another_order_is_refused_before_the_first_step(tmp_path: Path) -> None:
    build_shards(tmp_path / "toy")
    trainer(tmp_path, 7).fit(Recorder(), datamodule=make_data(tmp_path / "toy", Window(0, 1)))
    module, data = Recorder(), make_data(tmp_path / "toy", Window(0, 1), memory_mb=memory_for(tmp_path / "toy"))
    with pytest.raises(UserError, match=r"the order of windows would change, from in memory to streamed"):
        trainer(tmp_path, 9).fit(module, datamodule=data, ckpt_path=tmp_path / "checkpoints" / "step=7.ckpt")
    assert module.seen == []


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_goes_on_after_max_steps_sees_the_next_batches(tmp_path: Path) -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path / "whole", 20).fit(whole, datamodule=make_data(tmp_path / "toy", Window(0, 1)))
    short = trainer(tmp_path / "short", 9)
    short.fit(first, datamodule=make_data(tmp_path / "toy", Window(0, 1)))
    short.save_checkpoint(tmp_path / "end.ckpt")
    longer = trainer(tmp_path / "long", 20)
    longer.fit(second, datamodule=make_data(tmp_path / "toy", Window(0, 1)), ckpt_path=tmp_path / "end.ckpt")
    assert first.seen + second.seen == whole.seen


@pytest.mark.filterwarnings("ignore")
def test_short_epochs_go_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    whole, cut = Recorder(), Recorder()
    trainer(tmp_path / "whole", 20).fit(whole, datamodule=make_data(tmp_path / "toy", Window(0, 1)))
    pieces = trainer(tmp_path / "cut", 20, limit_train_batches=6, val_check_interval=1.0, check_val_every_n_epoch=1)
    pieces.fit(cut, datamodule=make_data(tmp_path / "toy", Window(0, 1)))
    assert cut.seen == whole.seen


def test_nothing_held_out_means_no_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1))
    hold_out(monkeypatch, 0.0)
    data.setup()
    assert data.val_dataloader() == []
    module = Recorder()
    trainer(tmp_path, max_steps=2).fit(module, datamodule=data)
    assert len(module.seen) == 2


@pytest.mark.filterwarnings("ignore")
def test_overfitting_sees_the_same_batch_at_every_step(tmp_path: Path) -> None:
    module = Recorder()
    data = make_data(tmp_path / "toy", Window(0, 1))
    trainer(tmp_path, max_steps=5, overfit_batches=1).fit(module, datamodule=data)
    assert len(module.seen) == 5
    assert all(seen == module.seen[0] for seen in module.seen)
