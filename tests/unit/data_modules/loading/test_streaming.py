"""Streaming: the windows of a step depend on nothing but the step, memory is bounded, and damage is named."""

import re
import tracemalloc
import weakref
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_modules.loading.streaming import BlockReader, LoadedBlock
from data_modules.loading.windows import gather_windows
from data_modules.storage import shards as shard_format
from data_modules.storage.manifest import read_manifest
from data_modules.storage.split import is_heldout
from dof_lightning.batch import Window
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes, rewrite
from tests.fixtures.episode_data import HELDOUT_FRACTION, _many_are_held_out, hold_out, keys, make_data, take
from tests.fixtures.streamed_data import EPISODES, build_shards, make_stream, memory_for

__all__ = ["_many_are_held_out"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are read in this process, in order."""
    names: list[str] = []

    def read_shard(url, members, entry):
        names.append(Path(url).name)
        return shard_format.read_shard(url, members, entry)

    monkeypatch.setattr("data_modules.loading.windows.read_shard", read_shard)
    return names


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_windows_of_a_step_do_not_depend_on_ranks_and_workers(tmp_path: Path, num_workers: int) -> None:
    expected = [keys(batch) for batch in take(make_stream(tmp_path / "toy"), 40)]
    for world_size in (1, 2, 4):
        ranks = [make_stream(tmp_path / "toy", r, world_size, num_workers=num_workers) for r in range(world_size)]
        parts = [[keys(batch) for batch in take(data, 40)] for data in ranks]
        assert all(len(part) == 16 // world_size for batches in parts for part in batches)
        assert [list(chain(*step)) for step in zip(*parts, strict=True)] == expected


@pytest.mark.parametrize("window", [Window(0, 1), Window(2, 5)], ids=str)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_windows_are_those_in_memory(tmp_path: Path, num_workers: int, window: Window) -> None:
    batches = take(make_stream(tmp_path / "toy", window=window, num_workers=num_workers), 20)
    table = make_data(tmp_path / "toy", window).table
    place_of = torch.empty(EPISODES, dtype=torch.int64)
    place_of[table.episode_id] = torch.arange(EPISODES)
    for batch in batches:
        expected = vars(gather_windows(table, place_of[batch.episode_id], batch.t, window))
        for name, value in vars(batch).items():
            assert torch.equal(value, expected[name]) if isinstance(value, torch.Tensor) else value == expected[name]


def test_an_epoch_visits_every_training_window_once(tmp_path: Path) -> None:
    data = make_stream(tmp_path / "toy")
    n_windows = data.n_training_windows
    assert n_windows == make_episodes(EPISODES).length[~is_heldout(torch.arange(EPISODES), HELDOUT_FRACTION)].sum()
    stream = [key for batch in take(data, 3 * n_windows // 16 + 1) for key in keys(batch)]
    epochs = [stream[epoch * n_windows : (epoch + 1) * n_windows] for epoch in range(3)]
    assert all(len(set(epoch)) == n_windows and set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("partition", ["windows", "shards"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_starting_late_equals_skipping(tmp_path: Path, num_workers: int, partition: str) -> None:
    whole = [keys(batch) for batch in take(make_stream(tmp_path / "toy", 1, 2, partition=partition), 60)]
    for step in np.random.default_rng(0).integers(1, 50, size=3).tolist():
        late = make_stream(tmp_path / "toy", 1, 2, step, partition=partition, num_workers=num_workers)
        assert [keys(batch) for batch in take(late, 8)] == whole[step : step + 8]


def test_only_the_blocks_that_are_needed_are_read(tmp_path: Path, reads: list[str]) -> None:
    data = make_stream(tmp_path / "toy", step=31, heldout_windows=0)
    assert reads == []
    blocks = data._block_order(data._plan).blocks_from(31)
    in_order = [data._plan.shards[shard].name for _ in range(3) for shard in next(blocks).shards]
    batches = iter(data.train_dataloader())
    next(batches)
    batches.close()
    assert reads == in_order[: len(reads)]
    assert len(reads) < len(data.manifest.shards)


def test_ranks_stream_shards_of_their_own(tmp_path: Path, reads: list[str]) -> None:
    ranks = [make_stream(tmp_path / "toy", rank, 2, partition="shards", heldout_windows=0) for rank in range(2)]
    seen, own = [], []
    for data in ranks:
        reads.clear()
        seen.append([keys(batch) for batch in take(data, 6)])
        own.append({*reads[:3]})  # of the first epoch: half of fifteen shards are seven
    assert all(len(part) == 8 for batches in seen for part in batches)
    assert not own[0] & own[1]
    one = [keys(batch) for batch in take(make_stream(tmp_path / "toy"), 6)]
    assert [list(chain(*step)) for step in zip(*seen, strict=True)] != one, "invariance is lost, as is said"


def test_fewer_shards_than_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.partition=shards needs a shard for each of 16 ranks.*use data\.part"):
        make_stream(tmp_path / "toy", world_size=16, partition="shards")
    with pytest.raises(UserError, match=r"data\.partition=shards streams .* data\.memory_mb to a number"):
        make_stream(tmp_path / "toy", partition="shards", memory_mb=None)


def test_what_fits_is_held_in_memory_in_its_own_order(tmp_path: Path) -> None:
    build_shards(tmp_path / "toy")
    expected = make_data(tmp_path / "toy", Window(0, 1))
    expected.setup()
    whole = memory_for(tmp_path / "toy", EPISODES / 4)
    held = make_stream(tmp_path / "toy", memory_mb=whole)
    assert [keys(batch) for batch in take(held, 30)] == [keys(batch) for batch in take(expected, 30)]
    assert held.state_dict() == expected.state_dict()


def test_a_shard_that_fits_no_block_is_refused_with_what_would(tmp_path: Path) -> None:
    build_shards(tmp_path / "toy", episodes=4000, episodes_per_shard=2000)
    with pytest.raises(UserError, match=r"shard-00000\d\.tar .*use data\.memory_mb=\d+ or more") as refused:
        make_stream(tmp_path / "toy", memory_mb=0.5)
    enough = int(re.search(r"use data\.memory_mb=(\d+)", str(refused.value))[1])
    assert take(make_stream(tmp_path / "toy", memory_mb=enough), 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shard_damaged_in_mid_stream_ends_the_training_with_its_name(tmp_path: Path, num_workers: int) -> None:
    data = make_stream(tmp_path / "toy", num_workers=num_workers, heldout_windows=0)
    blocks = [*data._block_order(data._plan).stream.blocks(0)]
    name = data._plan.shards[blocks[3].shards[0]].name
    shard = tmp_path / "toy" / name
    shard.write_bytes(bytes(shard.stat().st_size))
    batches, before = iter(data.train_dataloader()), sum(block.n_windows for block in blocks[:3]) // 16
    for _ in range(before):
        next(batches)
    with pytest.raises(UserError, match=rf"{name}: .*damaged") as error:
        next(batches)
    assert "\n" not in str(error.value)


def test_episodes_that_dataset_json_does_not_list_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_stream(tmp_path / "toy", heldout_windows=0)
    hold_out(monkeypatch, 0.5)
    with pytest.raises(UserError, match=r"shard-0000\d\d\.tar.* training windows, dataset\.json lists \d+"):
        take(data, 1)


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are alive take less than `memory_mb`, and so does everything that Python and numpy allocate."""
    blocks: list[weakref.ref[LoadedBlock]] = []
    read = BlockReader.read

    def remember(*arguments):
        loaded = read(*arguments)
        blocks.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr(BlockReader, "read", remember)
    peaks = []
    for episodes in (6_000, 18_000):
        path = tmp_path / str(episodes)
        build(path, make_episodes(episodes), episodes_per_sample=75, samples_per_shard=6)
        memory_mb = memory_for(tmp_path / "6000")
        data = make_stream(path, batch=2048, memory_mb=memory_mb, heldout_windows=0)
        take(data, 1)  # what is allocated once
        tracemalloc.start()
        for _ in zip(data.train_dataloader(), range(data.n_training_windows // 2048), strict=False):
            alive = [block for block in [reference() for reference in blocks] if block is not None]
            assert 1 <= len(alive) <= 2, "the current one and the next"
            assert sum(map(n_bytes, alive)) <= memory_mb * 1e6 / 3 * len(alive)
            del alive
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6 / memory_mb)
        tracemalloc.stop()
    assert all(0.4 < peak < 0.9 for peak in peaks), peaks


def n_bytes(loaded: LoadedBlock) -> int:
    tensors = [*vars(loaded.table).values(), *vars(loaded.index).values(), loaded.order]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def test_what_a_block_takes_is_known_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out(monkeypatch, 0.0)
    data = make_stream(tmp_path / "toy")
    plan = data._plan
    block = next(data._block_order(plan).blocks_from(0))
    loaded = BlockReader(plan, 0, shared=False).read(block)
    announced = sum(plan.sizes[shard].n_bytes for shard in block.shards)
    while_reading = 13 * len(loaded.table.length)  # length, end and id as they are stored
    assert n_bytes(loaded) == announced - while_reading


def test_held_out_windows_are_never_trained_on_and_the_same_on_any_ranks(tmp_path: Path, reads: list[str]) -> None:
    one = make_stream(tmp_path / "toy", heldout_windows=20)
    n_shards = len(one.manifest.shards)
    assert 0 < len(reads) < n_shards, "as many shards as it takes"
    expected = [keys(batch) for batch in one.val_dataloader()[0]]
    assert sum(map(len, expected)) == 20
    trained = {e for batch in take(one, 40) for e, _ in keys(batch)}
    assert is_heldout(torch.tensor([e for batch in expected for e, _ in batch]), HELDOUT_FRACTION).all()
    assert not is_heldout(torch.tensor(sorted(trained)), HELDOUT_FRACTION).any()
    ranks = [make_stream(tmp_path / "toy", rank, 4, heldout_windows=20).val_dataloader()[0] for rank in range(4)]
    assert [list(chain(*map(keys, step))) for step in zip(*ranks, strict=True)] == expected


def test_nothing_held_out_means_no_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out(monkeypatch, 0.0)
    assert make_stream(tmp_path / "toy").val_dataloader() == []


def test_everything_held_out_means_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_shards(tmp_path / "toy")
    rewrite(tmp_path / "toy", lambda document: [shard.update(n_training_windows=0) for shard in document["shards"]])
    with pytest.raises(UserError, match="every episode is held out"):
        make_stream(tmp_path / "toy")


def test_the_manifest_counts_training_windows(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(EPISODES))
    data = make_data(tmp_path / "toy", Window(0, 1))
    data.setup()
    assert read_manifest(tmp_path / "toy").n_training_windows == data.n_training_windows


def test_an_old_manifest_is_called_damaged(tmp_path: Path) -> None:
    build_shards(tmp_path / "toy")
    file = tmp_path / "toy" / "dataset.json"
    file.write_text(re.sub(r'"n_training_windows": \d+,', "", file.read_text()))
    with pytest.raises(UserError, match=r"dataset\.json is damaged .*build the dataset again"):
        read_manifest(tmp_path / "toy")


def test_another_order_is_refused_on_resuming(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    streamed, memory = make_stream(path), memory_for(path)
    shards = make_stream(path, world_size=2, partition="shards")
    states = [streamed.state_dict(), shards.state_dict(), make_stream(path, memory_mb=None).state_dict()]
    others = [
        make_stream(path, memory_mb=None),
        make_stream(path, memory_mb=memory * 0.7),
        make_stream(path, world_size=4, partition="shards"),
        make_stream(path, partition="shards"),
    ]
    for state in states:
        for other in others:
            if other.state_dict() != state:
                with pytest.raises(UserError, match=r"the order of windows would change, from .* to .*; set data"):
                    other.load_state_dict(state)
    assert len({str(data.state_dict()) for data in (streamed, shards, *others)}) == 6
    make_stream(path, world_size=4, num_workers=2).load_state_dict(states[0])
    make_stream(path, memory_mb=1000).load_state_dict(states[2])


def test_too_little_shared_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_stream(tmp_path / "toy", num_workers=2)
    monkeypatch.setattr("data_modules.loading.streaming.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"/dev/shm.*use data\.num_workers=0"):
        data.train_dataloader().__iter__()
