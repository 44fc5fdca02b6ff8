"""The LightningDataModule: windows of offline episodes, held in memory or streamed in blocks of shards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.loading.block_order import BlockOrder, Partition
from data_modules.loading.order import WindowOrder
from data_modules.loading.streaming import StreamedBatches, StreamPlan, choose_heldout_shards, plan_stream
from data_modules.loading.together import together
from data_modules.loading.windows import (
    EpisodeTable,
    InTurn,
    WindowIndex,
    gather_numbered,
    gather_windows,
    load_heldout,
    load_table,
    split_windows,
    start_workers,
    training_batches,
)
from data_modules.storage.manifest import DatasetManifest, read_manifest
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.errors import UserError
from dof_lightning.settings import Settings, WholeNumber
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Serving(Settings):
    """Settings of how windows are served; called with a dataset's path, they build its data module.

    Attributes:
        global_batch_size: windows per step over all ranks; a multiple of the number of ranks.
        heldout_windows: at most this many windows, evenly spread, are evaluated.
        train_on_padded_tails: whether `diffusion_mask` includes rows after an episode's end.
        num_workers: processes that gather batches or read blocks; 0 is fastest unless training leaves cores idle.
        memory_mb: memory for a rank's episodes, in 10^6 bytes; None means that all are held in memory.
        partition: `windows`: ranks take slices of the same windows; `shards`: each rank streams its own shards.
    """

    group: ClassVar[str] = "data"

    global_batch_size: int = 512
    heldout_windows: WholeNumber = 2048
    train_on_padded_tails: bool = False
    num_workers: WholeNumber = 0
    memory_mb: float | None = 2000
    partition: Partition = "windows"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partition == "shards" and self.memory_mb is None:
            raise UserError("data.partition=shards streams blocks of shards: set data.memory_mb to a number")

    def __call__(self, path: Path | str, window: Window, seed: int) -> "EpisodeDataModule":
        """Builds the data module; arguments as in `EpisodeDataModule`."""
        return EpisodeDataModule(path, window, seed, serving=self)

    def check_batch_size(self, ranks: int) -> None:
        """Refuses a batch size that is not a multiple of the number of ranks.

        Raises:
            UserError: names the nearest sizes that are.
        """
        size = self.global_batch_size
        if size < 1 or size % ranks:
            below, above = size // ranks * ranks, (size // ranks + 1) * ranks
            choices = f"{below} or {above}" if below > 0 else f"{above}"
            raise UserError(f"data.global_batch_size={size} cannot be divided among {ranks} ranks; choose {choices}")


USUAL_SERVING = Serving()


class EpisodeDataModule(LightningDataModule):
    """Training and held-out windows of one dataset.

    The training loader never ends and keeps no state: it starts at the trainer's step, so a resumed run sees exactly
    the batches the uninterrupted one would have seen, on any number of ranks. Held-out episodes are a fixed share
    chosen by a hash of their id; they are never trained on.

    A dataset of up to `memory_mb` is held in memory by every rank; a larger one is streamed (see `BlockOrder`).

    Args:
        path: the dataset's folder or address.
        window: the rows that an algorithm needs.
        seed: seed of the order of windows.
        serving: how windows are served.
        changes: single values of `serving` by name, as in `EpisodeDataModule(path, window, global_batch_size=256)`.

    Raises:
        UserError: the dataset is missing or damaged (see `read_manifest`), or the batch size, the memory or the
            partition does not fit.
    """

    def __init__(
        self,
        path: Path | str,
        window: Window,
        seed: int = 0,
        serving: Serving = USUAL_SERVING,
        **changes: Any,
    ) -> None:
        super().__init__()
        self.manifest: DatasetManifest = read_manifest(path)
        self.window = window
        self.seed = seed
        self.serving = replace(serving, **changes)
        self._plan = plan_stream(self.manifest, self.serving.memory_mb, self.serving.partition)
        self._table: EpisodeTable | None = None
        self._training: WindowIndex | None = None
        self._heldout: tuple[EpisodeTable, WindowIndex] | None = None

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec."""
        return self.manifest.spec

    @property
    def table(self) -> EpisodeTable:
        """All episodes, read on first use."""
        if self._table is None:
            self._table = _load(self.manifest)
        return self._table

    def setup(self, stage: str | None = None) -> None:
        """Reads the episodes that are held in memory, unless this is done already (Lightning hook).

        Raises:
            UserError: a shard is damaged, nothing is left to train on, or batch size and ranks do not fit.
        """
        self.serving.check_batch_size(self.world_size)
        if self._plan is not None:
            self._block_order(self._plan)
            if self._heldout is None:
                shards = choose_heldout_shards(self.manifest, self.serving.heldout_windows)
                held_out = load_heldout(self.manifest, shards)
                self._heldout = None if held_out is None else (held_out, split_windows(held_out)[1])
            return
        self._training, held_out_windows = split_windows(self.table)
        self._heldout = self.table, held_out_windows
        if len(self._training) == 0:
            raise UserError(
                f"{self.manifest.location}: every episode is held out; collect more of them (data.episodes)"
            )

    @property
    def n_training_windows(self) -> int:
        """The number of windows per epoch."""
        return self.manifest.n_training_windows if self._training is None else len(self._training)

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints: the values besides configuration and step that the order of windows depends on."""
        return {"order": self._describe_order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to resume in another order (Lightning hook).

        Raises:
            UserError: windows would be seen twice, or not at all.
        """
        before, now = state_dict["order"], self._describe_order()
        if before != now:
            raise UserError(
                f"the order of windows would change, from {before} to {now}; set data.memory_mb, data.partition and "
                "trainer.devices as they were, or start afresh with another run_dir="
            )

    def train_dataloader(self) -> "TrainingLoader":
        """Endless batches from the trainer's step on (Lightning hook)."""
        return TrainingLoader(self)

    def val_dataloader(self) -> "list[HeldoutLoader]":
        """The held-out batches (Lightning hook); none if nothing is held out."""
        loader = HeldoutLoader(self)
        return [loader] if len(loader) else []

    @property
    def rank(self) -> int:
        """This process's rank, 0 without a trainer."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def world_size(self) -> int:
        """Number of ranks, 1 without a trainer."""
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def batches_seen(self) -> int:
        """Number of batches that each rank has trained on, over the whole run; 0 with `trainer.overfit_batches`."""
        if self.trainer is None or self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return 0
        return self.trainer.global_step * self.trainer.accumulate_grad_batches

    @property
    def pin_memory(self) -> bool:
        """Whether batches are put into page-locked memory, from which a GPU copies while it computes."""
        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def training_batches(self) -> Iterator[EpisodeBatch]:
        """This rank's batches from the trainer's step on, without end."""
        if self._plan is not None:
            padded = self.serving.train_on_padded_tails
            gather = partial(gather_windows, window=self.window, train_on_padded_tails=padded)
            blocks = self._block_order(self._plan)
            ranks_here = 1 if self.trainer is None else self.trainer.num_devices
            streamed = StreamedBatches(
                self._plan, blocks, self.seed, self.batches_seen, gather, self.serving.num_workers, ranks_here
            )
            batches = together(iter(streamed), self._device)
            return (batch.pin_memory() for batch in batches) if self.pin_memory else batches
        assert self._training is not None
        order = WindowOrder(self.seed, len(self._training), self.serving.global_batch_size)
        windows = partial(order.windows, rank=self.rank, world_size=self.world_size)
        gather_held = self._gather_numbered(self.table, self._training)
        held = InTurn(partial(training_batches, windows, gather_held, self.batches_seen))
        count = self.serving.num_workers
        return start_workers(DataLoader(held, batch_size=None, num_workers=count, pin_memory=self.pin_memory))

    def heldout_batches(self) -> Iterator[EpisodeBatch]:
        """This rank's slices of the held-out batches."""
        if self._heldout is not None:
            gather = self._gather_numbered(*self._heldout)
            sample = self.heldout_sample()
            for windows in torch.split(sample, self.serving.global_batch_size) if len(sample) else ():
                yield gather(windows.chunk(self.world_size)[self.rank])

    def heldout_sample(self) -> Tensor:
        """`[n]`, evenly spread held-out windows; n is a multiple of the number of ranks."""
        available = 0 if self._heldout is None else len(self._heldout[1])
        n_windows = min(self.serving.heldout_windows, available)
        n_windows -= n_windows % self.world_size
        return torch.arange(n_windows) * available // max(n_windows, 1)

    def _block_order(self, plan: StreamPlan) -> BlockOrder:
        how, ranks = self.serving, self.world_size
        return BlockOrder.of_rank(
            self.seed, plan.sizes, plan.block_bytes, how.global_batch_size, how.partition, self.rank, ranks
        )

    def _describe_order(self) -> str:
        plan = self._plan
        return "in memory" if plan is None else plan.describe_order(self.serving.partition, self.world_size)

    def _gather_numbered(self, table: EpisodeTable, index: WindowIndex) -> Callable[[Tensor], EpisodeBatch]:
        return partial(gather_numbered, table, index, self.window, self.serving.train_on_padded_tails)


class TrainingLoader:
    """This rank's batches; each `iter` starts at the trainer's current step."""

    def __init__(self, data: EpisodeDataModule) -> None:
        self._data = data

    def __iter__(self) -> Iterator[EpisodeBatch]:
        """Yields batches without end."""
        return self._data.training_batches()


class HeldoutLoader:
    """This rank's held-out batches."""

    def __init__(self, data: EpisodeDataModule) -> None:
        self._data = data

    def __len__(self) -> int:
        """The number of batches, the same on every rank."""
        return -(-len(self._data.heldout_sample()) // self._data.serving.global_batch_size)

    def __iter__(self) -> Iterator[EpisodeBatch]:
        """Yields the batches in the same order every time."""
        batches = self._data.heldout_batches()
        return (batch.pin_memory() for batch in batches) if self._data.pin_memory else batches


def _load(manifest: DatasetManifest) -> EpisodeTable:
    console = Console(stderr=True)
    quiet = not console.is_terminal or rank_zero_only.rank != 0  # type: ignore[attr-defined]
    with Progress(console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(f"reading {manifest.spec.name}", total=manifest.n_bytes)
        return load_table(manifest, on_shard=lambda shard: progress.update(task, advance=shard.n_bytes))
