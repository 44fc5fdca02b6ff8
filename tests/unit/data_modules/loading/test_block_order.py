"""The order of a streamed dataset is arithmetic: the same on every rank count, complete in every epoch, bounded."""

from itertools import chain, islice, pairwise

import pytest
import torch

from data_modules.loading.block_order import Block, BlockOrder, BlockStream, Partition, ShardSize, window_order_in_block
from dof_lightning.errors import UserError

SEED = 5
SIZES = (7, 3, 12, 1, 9, 9, 4, 2, 11, 6, 8)
SHARDS = [ShardSize(size, 100 * size + 50) for size in SIZES]
BLOCK_BYTES = 2600
EPOCH = sum(SIZES)


def rank_order(batch: int, rank: int = 0, world_size: int = 1, partition: Partition = "windows") -> BlockOrder:
    return BlockOrder.of_rank(SEED, SHARDS, BLOCK_BYTES, batch, partition, rank, world_size)


def windows(order: BlockOrder, step: int) -> list[tuple[int, int]]:
    """The windows of a step as (shard, number within it)."""
    return [found for piece in order.pieces(step) for found in shuffled(piece.block)[piece.first :][: piece.size]]


def shuffled(block: Block) -> list[tuple[int, int]]:
    numbered = [(shard, number) for shard in block.shards for number in range(SIZES[shard])]
    return [numbered[place] for place in window_order_in_block(SEED, block).tolist()]


@pytest.mark.parametrize("epoch", [0, 1, 9])
def test_an_epoch_is_all_shards_in_blocks_that_fit(epoch: int) -> None:
    blocks = BlockStream(SEED, SHARDS, BLOCK_BYTES).blocks(epoch)
    assert sorted(chain(*(block.shards for block in blocks))) == list(range(len(SHARDS)))
    assert [(block.epoch, block.number) for block in blocks] == [(epoch, number) for number in range(len(blocks))]
    for block, following in pairwise(blocks):
        size = sum(SHARDS[shard].n_bytes for shard in block.shards)
        assert size <= BLOCK_BYTES < size + SHARDS[following.shards[0]].n_bytes, "as many shards as fit"
        assert block.n_windows == sum(SIZES[shard] for shard in block.shards)


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(chain(*(block.shards for block in BlockStream(seed, SHARDS, BLOCK_BYTES).blocks(epoch))))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == len(orders)
    blocks = [Block(epoch, number, (), 200) for epoch in range(3) for number in range(3)]
    permutations = [window_order_in_block(SEED, block) for block in blocks]
    for i, one in enumerate(permutations):
        assert all((one == other).float().mean() < 0.1 for other in permutations[:i])


@pytest.mark.parametrize("batch", [1, 8, EPOCH, 100, 250])
def test_every_window_is_seen_once_an_epoch(batch: int) -> None:
    n_epochs = 5
    order = rank_order(batch)
    stream = [window for step in range(-(-n_epochs * EPOCH // batch)) for window in windows(order, step)]
    for epoch in range(n_epochs):
        assert len(set(stream[epoch * EPOCH : (epoch + 1) * EPOCH])) == EPOCH


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batch", [4, 40, 104])
def test_windows_of_a_step_do_not_depend_on_the_ranks(world_size: int, batch: int) -> None:
    one = rank_order(batch)
    ranks = [rank_order(batch, rank, world_size) for rank in range(world_size)]
    for step in (0, 1, 2, 7, 50):
        parts = [windows(order, step) for order in ranks]
        assert all(len(part) == batch // world_size for part in parts)
        assert list(chain(*parts)) == windows(one, step)


@pytest.mark.parametrize("partition", ["windows", "shards"])
def test_a_step_does_not_depend_on_the_steps_before(partition: Partition) -> None:
    visited = rank_order(8, 1, 2, partition)
    seen = [windows(visited, step) for step in range(120)]
    for step in (119, 3, 40, 12, 13, 0):
        assert windows(rank_order(8, 1, 2, partition), step) == windows(visited, step) == seen[step]


@pytest.mark.parametrize("partition", ["windows", "shards"])
@pytest.mark.parametrize("start", [0, 3, 21, 77])
def test_blocks_are_read_from_the_one_a_step_begins_in(start: int, partition: Partition) -> None:
    order = rank_order(8, 1, 2, partition)
    needed = [piece.block for step in range(start, start + 60) for piece in order.pieces(step)]
    needed = [block for place, block in enumerate(needed) if place == 0 or block != needed[place - 1]]
    upcoming = list(islice(order.blocks_from(start), 2 * len(needed)))
    assert upcoming[0] == needed[0]
    assert [block for block in upcoming if block in needed] == needed


def test_shards_are_shared_out_to_the_ranks() -> None:
    world_size, batch = 3, 6
    streams = [BlockStream(SEED, SHARDS, BLOCK_BYTES, rank, world_size) for rank in range(world_size)]
    for epoch in range(4):
        parts = [[shard for block in stream.blocks(epoch) for shard in block.shards] for stream in streams]
        assert sorted(chain(*parts)) == list(range(len(SHARDS)))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for rank, stream in enumerate(streams):
        order = rank_order(batch, rank, world_size, "shards")
        seen = [window for step in range(100) for window in windows(order, step)]
        expected = [window for epoch in range(20) for block in stream.blocks(epoch) for window in shuffled(block)]
        assert seen == expected[: len(seen)]
        assert len(seen) == 100 * batch // world_size, "every rank has the same number of windows a step"


def test_fewer_shards_than_ranks_are_refused() -> None:
    with pytest.raises(UserError, match=r"partition=shards needs a shard for each of 12 ranks, the dataset has 11"):
        rank_order(12, 0, 12, "shards")
    rank_order(12, 0, 12)


def test_an_unknown_partition_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.partition='rows' is not one of windows, shards"):
        rank_order(12, partition="rows")


def test_no_global_randomness() -> None:
    before = torch.get_rng_state()
    windows(rank_order(8), 3)
    assert torch.equal(before, torch.get_rng_state())
