"""The order of windows of a dataset that is streamed: pure functions of integers, as in `order`.

Per epoch the shards are permuted and cut into blocks, as many shards as fit; the windows of a block are permuted. So
windows come as one endless stream, epoch after epoch, block after block, and the place of a step in it is computed:
this needs the number of training windows of each shard, which the manifest contains, and no reading.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from dof_lightning.errors import UserError
from dof_lightning.seeding import make_generator

Partition = Literal["windows", "shards"]


class ShardSize(NamedTuple):
    """The sizes of a shard that the order depends on.

    Attributes:
        n_windows: number of training windows, at least 1.
        n_bytes: bytes that it takes in memory.
    """

    n_windows: int
    n_bytes: int


@dataclass(frozen=True)
class Block:
    """Shards whose windows are shuffled together.

    Attributes:
        epoch: the epoch, whose permutation of the shards it belongs to.
        number: its place in the epoch.
        shards: the indices of its shards, in this order.
        n_windows: number of training windows of all of them.
    """

    epoch: int
    number: int
    shards: tuple[int, ...]
    n_windows: int


class Piece(NamedTuple):
    """Consecutive places of a block's permutation.

    Attributes:
        block: the block.
        first: the first place.
        size: the number of places.
    """

    block: Block
    first: int
    size: int


def shard_order(seed: int, epoch: int, n_shards: int) -> list[int]:
    """The permutation of an epoch's shards."""
    return torch.randperm(n_shards, generator=make_generator(seed, "shard order", epoch)).tolist()


def window_order_in_block(seed: int, block: Block) -> Tensor:
    """The permutation of a block's windows: `[n_windows]` int64."""
    generator = make_generator(seed, "window order", block.epoch, block.number)
    return torch.randperm(block.n_windows, generator=generator)


class BlockStream:
    """Blocks of shards, epoch after epoch without end.

    Args:
        seed: the run's seed.
        shards: all shards that have training windows.
        block_bytes: largest number of bytes of a block in memory.
        part: the stream contains every `n_parts`-th shard of an epoch's permutation, from this place on.
        n_parts: number of streams that share the shards of an epoch.

    Raises:
        ValueError: a shard takes more than a block may, or there are fewer shards than parts.
    """

    def __init__(
        self, seed: int, shards: Sequence[ShardSize], block_bytes: int, part: int = 0, n_parts: int = 1
    ) -> None:
        if len(shards) < n_parts or max(shard.n_bytes for shard in shards) > block_bytes:
            raise ValueError(f"{len(shards)} shards do not make {n_parts} parts with blocks of {block_bytes} bytes")
        self._seed, self._shards, self._block_bytes = seed, tuple(shards), block_bytes
        self._part, self._n_parts = part, n_parts
        self._epochs: dict[int, tuple[tuple[Block, ...], list[int]]] = {}
        self._epoch_starts = [0]

    def blocks(self, epoch: int) -> tuple[Block, ...]:
        """The blocks of an epoch in order."""
        return self._epoch(epoch)[0]

    def blocks_from(self, place: int) -> Iterator[Block]:
        """Yields the block that contains a place of the stream, and all after it."""
        block = self.pieces(place, 1)[0].block
        yield from self.blocks(block.epoch)[block.number :]
        for epoch in count(block.epoch + 1):
            yield from self.blocks(epoch)

    def pieces(self, place: int, size: int) -> list[Piece]:
        """The pieces that contain the `size` windows from a place of the stream on, in order."""
        epoch, offset = self._find_epoch(place)
        blocks, starts = self._epoch(epoch)
        number = bisect_right(starts, offset) - 1
        offset -= starts[number]
        found = []
        while size > 0:
            if number == len(blocks):
                epoch, number = epoch + 1, 0
                blocks = self.blocks(epoch)
            block = blocks[number]
            found.append(Piece(block, offset, min(size, block.n_windows - offset)))
            size -= found[-1].size
            number, offset = number + 1, 0
        return found

    def _find_epoch(self, place: int) -> tuple[int, int]:
        """The epoch of a place, and the number of windows of that epoch before it."""
        starts = self._epoch_starts
        while starts[-1] <= place:
            starts.append(starts[-1] + self._count_windows(len(starts) - 1))
        epoch = bisect_right(starts, place) - 1
        return epoch, place - starts[epoch]

    def _count_windows(self, epoch: int) -> int:
        if self._n_parts == 1:
            return sum(shard.n_windows for shard in self._shards)
        return sum(self._shards[shard].n_windows for shard in self._shards_of(epoch))

    def _shards_of(self, epoch: int) -> list[int]:
        return shard_order(self._seed, epoch, len(self._shards))[self._part :: self._n_parts]

    def _epoch(self, epoch: int) -> tuple[tuple[Block, ...], list[int]]:
        """An epoch's blocks, and the number of windows before each."""
        if epoch not in self._epochs:
            self._epochs = {known: blocks for known, blocks in self._epochs.items() if known == epoch - 1}
            blocks = self._pack(epoch)
            self._epochs[epoch] = blocks, list(accumulate((b.n_windows for b in blocks[:-1]), initial=0))
        return self._epochs[epoch]

    def _pack(self, epoch: int) -> tuple[Block, ...]:
        groups: list[list[int]] = [[]]
        free = self._block_bytes
        for shard in self._shards_of(epoch):
            if self._shards[shard].n_bytes > free:
                groups.append([])
                free = self._block_bytes
            groups[-1].append(shard)
            free -= self._shards[shard].n_bytes
        return tuple(
            Block(epoch, number, tuple(group), sum(self._shards[shard].n_windows for shard in group))
            for number, group in enumerate(groups)
        )


@dataclass(frozen=True)
class BlockOrder:
    """The windows of every step of one rank.

    * `windows`: step s takes the `global_batch_size` places of one stream from `s * global_batch_size` on, and rank r
      the r-th equal contiguous slice of them. The windows of a step do not depend on the number of ranks; every rank
      reads every block.
    * `shards`: each rank has its own stream with its share of an epoch's shards. Less is read, but the windows of
      a step depend on the number of ranks, and ranks enter the next epoch a little before or after each other.

    Args:
        stream: the stream, of all shards for `windows`, of this rank's for `shards`.
        first: the rank's place in the stream at step 0.
        stride: number of places from one step to the next.
        size: number of windows that this rank takes per step.
    """

    stream: BlockStream
    first: int
    stride: int
    size: int

    @classmethod
    def of_rank(
        cls,
        seed: int,
        shards: Sequence[ShardSize],
        block_bytes: int,
        global_batch_size: int,
        partition: Partition = "windows",
        rank: int = 0,
        world_size: int = 1,
    ) -> Self:
        """Builds one rank's order; `shards` are all with training windows, other arguments as in `BlockStream`.

        The windows of a step over all ranks, `global_batch_size`, are a multiple of their number.

        Raises:
            UserError: the partition is unknown, or a rank would have no shard.
        """
        size = global_batch_size // world_size
        if partition == "windows":
            return cls(BlockStream(seed, shards, block_bytes), rank * size, global_batch_size, size)
        if partition != "shards":
            raise UserError(f"data.partition={partition!r} is not one of {', '.join(get_args(Partition))}")
        if len(shards) < world_size:
            raise UserError(
                f"data.partition=shards needs a shard for each of {world_size} ranks, the dataset has {len(shards)}; "
                "use data.partition=windows or fewer devices"
            )
        return cls(BlockStream(seed, shards, block_bytes, rank, world_size), 0, size, size)

    def pieces(self, step: int) -> list[Piece]:
        """The pieces that contain the windows of a step, in order."""
        return self.stream.pieces(self.first + step * self.stride, self.size)

    def blocks_from(self, step: int) -> Iterator[Block]:
        """Yields the block in which a step begins, and all after it."""
        return self.stream.blocks_from(self.first + step * self.stride)
