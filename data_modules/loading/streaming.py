"""Datasets larger than memory: blocks of shards are read ahead while windows are gathered from the current one."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from threading import Event

from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.loading.block_order import Block, BlockOrder, Partition, ShardSize, shard_order, window_order_in_block
from data_modules.loading.windows import (
    EpisodeTable,
    InTurn,
    WindowIndex,
    load_table,
    memory_of,
    split_windows,
    start_workers,
)
from data_modules.storage.manifest import DatasetManifest
from data_modules.storage.shards import ShardEntry
from dof_lightning.batch import EpisodeBatch, concatenate
from dof_lightning.errors import UserError
from dof_lightning.seeding import derive_seed

BLOCKS_ALIVE = 3  # the current block and those read ahead, in all processes of a rank

_SHARED_MEMORY = "/dev/shm"
_HELDOUT_SEED = derive_seed("held-out shards")


@dataclass(frozen=True)
class StreamPlan:
    """The part of a dataset that is streamed, and the size of its blocks.

    Attributes:
        manifest: the dataset.
        shards: the shards that have training windows.
        sizes: the sizes of these shards.
        block_bytes: largest number of bytes of a block.
    """

    manifest: DatasetManifest
    shards: tuple[ShardEntry, ...]
    sizes: tuple[ShardSize, ...]
    block_bytes: int

    def describe_order(self, partition: Partition, ranks: int) -> str:
        """The values that the order of windows depends on, besides configuration and step; checkpoints hold it."""
        streamed = f"streamed in blocks of {self.block_bytes} bytes"
        return f"{streamed}, shards shared out to {ranks} ranks" if partition == "shards" else streamed


def plan_stream(manifest: DatasetManifest, memory_mb: float | None, partition: Partition) -> StreamPlan | None:
    """Plans blocks such that all blocks alive at once take no more than `memory_mb` (10^6 bytes).

    Returns:
        None if the dataset is held in memory: it fits, or `memory_mb` is None.

    Raises:
        UserError: no block holds the largest shard; the message names a size that would.
    """
    whole = sum(memory_of(manifest, shard) for shard in manifest.shards)
    if memory_mb is None or (partition == "windows" and whole <= memory_mb * 1e6):
        return None
    shards = tuple(shard for shard in manifest.shards if shard.n_training_windows)
    sizes = tuple(ShardSize(shard.n_training_windows, memory_of(manifest, shard)) for shard in shards)
    if not shards:
        raise UserError(f"{manifest.location}: every episode is held out; collect more of them (data.episodes)")
    largest = max(range(len(shards)), key=lambda place: sizes[place].n_bytes)
    needed = BLOCKS_ALIVE * sizes[largest].n_bytes
    if needed > memory_mb * 1e6:
        raise UserError(
            f"{manifest.url(shards[largest])} is too large to be streamed within data.memory_mb={memory_mb}; "
            f"use data.memory_mb={-(-needed // 10**6)} or more, or write smaller shards"
        )
    return StreamPlan(manifest, shards, sizes, int(memory_mb * 1e6) // BLOCKS_ALIVE)


def choose_heldout_shards(manifest: DatasetManifest, n_windows: int) -> list[ShardEntry]:
    """Chooses shards from all over the dataset with at least `n_windows` held-out windows, if there are as many.

    They are the first of a fixed permutation, the same for every run, so that held-out losses can be compared.
    """
    chosen: list[ShardEntry] = []
    for place in shard_order(_HELDOUT_SEED, 0, len(manifest.shards)):
        if n_windows <= 0:
            break
        shard = manifest.shards[place]
        if shard.n_training_windows < shard.n_steps:
            chosen.append(shard)
            n_windows -= shard.n_steps - shard.n_training_windows
    return chosen


@dataclass(frozen=True)
class LoadedBlock:
    """A block in memory.

    Attributes:
        block: the block.
        table: the episodes of its shards.
        index: its training windows.
        order: `[n_windows]` int64, their permutation.
    """

    block: Block
    table: EpisodeTable
    index: WindowIndex
    order: Tensor


@dataclass(frozen=True)
class Failure:
    """The reason why a block could not be read, as one line that can be sent between processes."""

    message: str


@dataclass(frozen=True)
class BlockReader:
    """Reads blocks, in any thread or process.

    Args:
        plan: the plan of the stream.
        seed: the run's seed.
        shared: whether blocks are to be sent to another process.
    """

    plan: StreamPlan
    seed: int
    shared: bool

    def read(self, block: Block, on_shard: Callable[[ShardEntry], None] = lambda shard: None) -> LoadedBlock | Failure:
        """Reads a block, or returns the one line that names the damaged shard and the fix.

        Args:
            block: the block to read.
            on_shard: called after each shard; a `UserError` that it raises ends the reading.
        """
        plan = self.plan
        shards = [plan.shards[place] for place in block.shards]
        try:
            table = load_table(plan.manifest, shards, on_shard, self.shared)
        except UserError as error:
            return Failure(str(error))
        training, _ = split_windows(table)
        if len(training) != block.n_windows:
            files = ", ".join(shard.name for shard in shards)
            return Failure(
                f"{plan.manifest.location}: {files} contain {len(training)} training windows, dataset.json lists "
                f"{block.n_windows}; delete the folder and build the dataset again (`dof data build`)"
            )
        return LoadedBlock(block, table, training, window_order_in_block(self.seed, block))


class StreamedBatches:
    """One rank's batches from a step on; at most `BLOCKS_ALIVE` blocks are in memory at any time.

    Without workers a thread reads the next block while windows are gathered from the current one. With workers,
    processes read blocks in turn and hand them over in shared memory; as many as there may be blocks are used.

    Args:
        plan: the plan of the stream.
        order: the windows of each step.
        seed: the run's seed.
        start: the first step.
        gather: makes a batch from a table, episodes' places `[B]` and time steps `[B]`.
        num_workers: number of processes that read; 0 means a thread.
        ranks_here: ranks on this machine, which share the memory through which its workers send blocks.
    """

    def __init__(
        self,
        plan: StreamPlan,
        order: BlockOrder,
        seed: int,
        start: int,
        gather: Callable[[EpisodeTable, Tensor, Tensor], EpisodeBatch],
        num_workers: int,
        ranks_here: int = 1,
    ) -> None:
        self._order = order
        self._start = start
        self._gather = gather
        self._num_workers = min(num_workers, BLOCKS_ALIVE - 1)
        self._reader = BlockReader(plan, seed, shared=self._num_workers > 0)
        if self._num_workers:
            _check_shared_memory(plan.block_bytes * (self._num_workers + 1) * ranks_here)

    def __iter__(self) -> Iterator[EpisodeBatch]:
        """Yields batches without end.

        Raises:
            UserError: a shard is damaged.
        """
        if self._num_workers:
            blocks = InTurn(self._read_in_turn)
            loader = DataLoader(blocks, batch_size=None, num_workers=self._num_workers, prefetch_factor=1)
            yield from self._batches(start_workers(loader))
        else:
            with closing(self._read_ahead()) as ahead:
                yield from self._batches(ahead)

    def _read_in_turn(self, first: int, stride: int) -> Iterator[LoadedBlock | Failure]:
        return map(self._reader.read, islice(self._order.blocks_from(self._start), first, None, stride))

    def _read_ahead(self) -> Generator[LoadedBlock | Failure]:
        """Reads one block ahead in a thread, and keeps no block that it has passed on."""
        cancelled = Event()

        def go_on(shard: ShardEntry) -> None:
            if cancelled.is_set():
                raise UserError("the reading of this block was cancelled")

        with ThreadPoolExecutor(1, "block reader") as executor:
            reading: deque[Future[LoadedBlock | Failure]] = deque()
            try:
                for block in self._order.blocks_from(self._start):
                    reading.append(executor.submit(self._reader.read, block, go_on))
                    if len(reading) == 2:
                        yield reading.popleft().result()
            finally:
                cancelled.set()  # ends the current reading at the next shard

    def _batches(self, loaded: Iterator[LoadedBlock | Failure]) -> Iterator[EpisodeBatch]:
        current: LoadedBlock | None = None
        for step in count(self._start):
            parts = []
            for block, first, size in self._order.pieces(step):
                while current is None or current.block != block:
                    current = None  # its memory is needed for the one after the next
                    following = next(loaded)
                    if isinstance(following, Failure):
                        raise UserError(following.message)
                    current = following
                    del following
                    if (current.block.epoch, current.block.number) > (block.epoch, block.number):
                        raise RuntimeError(f"{current.block} came before {block}")  # then `block` would never come
                windows = current.order[first : first + size]
                parts.append(self._gather(current.table, *current.index.locate(windows)))
            yield concatenate(parts)


def _check_shared_memory(n_bytes: int) -> None:
    """Checks the folder through which workers pass blocks: it is small in many containers, and must not become full."""
    if not os.path.isdir(_SHARED_MEMORY):
        return
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free < n_bytes:
        raise UserError(
            f"data.num_workers: blocks need {n_bytes / 1e6:.0f} MB in {_SHARED_MEMORY}, {free / 1e6:.0f} MB are free; "
            "use data.num_workers=0, a smaller data.memory_mb, or a larger /dev/shm (docker run --shm-size)"
        )
