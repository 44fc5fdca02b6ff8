"""A data module on a small made-up dataset, a fifth of whose episodes are held out."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator
from small_dataset import build, make_episodes

from data_modules.episodes import EpisodeDataModule
from data_modules.order import is_heldout
from dof_lightning.batch import EpisodeBatch, Window

DISCOUNT = 0.9
HELDOUT_FRACTION = 0.2


@pytest.fixture(autouse=True)
def _many_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out(monkeypatch, HELDOUT_FRACTION)


def hold_out(monkeypatch: pytest.MonkeyPatch, fraction: float) -> None:
    """Holds out another share than real datasets do, which are larger."""
    for module in ("windows", "shards"):
        monkeypatch.setattr(f"data_modules.{module}.is_heldout", partial(is_heldout, fraction=fraction))


def make_data(path: Path | str, window: Window, batch: int = 16, **options: Any) -> EpisodeDataModule:
    if isinstance(path, Path) and not path.exists():
        build(path, make_episodes(60), discount=DISCOUNT)
    return EpisodeDataModule(path, window, batch, seed=3, **options)


def take(data: EpisodeDataModule, count: int) -> list[EpisodeBatch]:
    batches = iter(data.train_dataloader())
    return [next(batches) for _ in range(count)]


def keys(batch: EpisodeBatch) -> list[tuple[int, int]]:
    return list(zip(batch.episode_id.tolist(), batch.t.tolist(), strict=True))


class FakeTrainer:
    def __init__(
        self, rank: int = 0, world_size: int = 1, global_step: int = 0, accelerator: Accelerator | None = None
    ) -> None:
        self.global_rank, self.world_size, self.global_step = rank, world_size, global_step
        self.accumulate_grad_batches, self.overfit_batches = 1, 0
        self.accelerator = accelerator or CPUAccelerator()
        self.num_devices = world_size
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))
