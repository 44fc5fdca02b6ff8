"""The DataModule: windows equal a naive reference, and are shared out to epochs, ranks and held-out batches."""

import multiprocessing
import os
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Bool, Float32, Int64, jaxtyped
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from torch import Tensor

from data_modules.storage.arrays import Episodes
from data_modules.storage.split import is_heldout
from dof_lightning.batch import Window
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.episode_data import (
    DISCOUNT,
    HELDOUT_FRACTION,
    FakeTrainer,
    _many_are_held_out,
    keys,
    make_data,
    take,
)

__all__ = ["_many_are_held_out"]

WINDOWS = [Window(0, 1), Window(0, 4), Window(3, 1), Window(2, 5), Window(9, 9)]


def reference_window(episodes: Episodes, e: int, t: int, window: Window, padded_tails: bool) -> dict[str, Any]:
    """One window, row by row, as the contract's words say."""
    length, ended = int(episodes.length[e]), bool(episodes.terminated[e])
    last_seen = length if episodes.unseen_end is None or not episodes.unseen_end[e] else length - 1
    n_agents = episodes.observations.shape[1]
    times = [t - window.history + j for j in range(window.length + 1)]
    rows = [min(max(time, 0), length) for time in times]
    steps = [min(max(time, 0), length - 1) for time in times[:-1]]
    result: dict[str, Any] = {
        "observations": np.stack([episodes.observations[e][:, row] for row in rows], 1),
        "actions": np.stack([episodes.actions[e][:, step] for step in steps], 1),
        "valid": np.array([0 <= time <= last_seen for time in times]),
        "state": np.stack([episodes.state[e][row] for row in rows]),
        "legal": np.stack([episodes.legal[e][:, row] for row in rows], 1),
        "alive": np.stack([episodes.alive[e][:, row] for row in rows], 1),
        "rewards": np.zeros((n_agents, window.length), np.float32),
        "return_to_go": np.zeros((n_agents, window.length), np.float32),
        "terminated": np.zeros(window.length, bool),
        "truncated": np.zeros(window.length, bool),
        "diffusion_mask": np.zeros(window.length, bool),
        "transition_mask": np.zeros((n_agents, window.length), bool),
    }
    for j, time in enumerate(times[:-1]):
        result["diffusion_mask"][j] = j > window.history and (padded_tails or time <= last_seen)
        for agent in range(n_agents):
            rewards = episodes.rewards[e, agent, :length].astype(np.float64)
            if time < length:
                future = rewards[max(time, 0) :]
                result["return_to_go"][agent, j] = sum(DISCOUNT**k * reward for k, reward in enumerate(future))
            if 0 <= time < length:
                result["rewards"][agent, j] = rewards[time]
                known = time < last_seen or ended
                result["transition_mask"][agent, j] = known and episodes.alive[e, agent, time]
        result["terminated"][j] = time == length - 1 and ended
        result["truncated"][j] = time == length - 1 and not ended
    return result


@pytest.mark.parametrize("unseen_ends", [False, True])
@pytest.mark.parametrize("padded_tails", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_equal_a_naive_reference(tmp_path: Path, window: Window, padded_tails: bool, unseen_ends: bool) -> None:
    episodes = make_episodes(60)
    if unseen_ends:
        episodes.unseen_end = np.arange(60) % 3 > 0
    build(tmp_path / "toy", episodes, discount=DISCOUNT)
    data = make_data(tmp_path / "toy", window, batch=50, train_on_padded_tails=padded_tails)
    data.setup()
    seen = set()
    for batch in [*take(data, 5), *data.val_dataloader()[0]]:
        assert batch.history == window.history
        seen |= {*keys(batch)}
        expected = [reference_window(episodes, e, t, window, padded_tails) for e, t in keys(batch)]
        for name in expected[0]:
            rows = np.stack([row[name] for row in expected])
            np.testing.assert_allclose(getattr(batch, name), rows, atol=1e-6, err_msg=name)
    assert len(seen) == episodes.length.sum()


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
def test_shapes_and_types(tmp_path: Path, discrete: bool, optional: bool) -> None:
    build(tmp_path / "toy", make_episodes(60, discrete=discrete, optional=optional), discrete=discrete)
    data = make_data(tmp_path / "toy", Window(2, 3), batch=8)
    data.setup()
    batch = take(data, 1)[0]

    @jaxtyped(typechecker=beartype)
    def check(
        observations: Float32[Tensor, "8 2 6 4"],
        actions: Int64[Tensor, "8 2 5"] if discrete else Float32[Tensor, "8 2 5 3"],
        rewards: Float32[Tensor, "8 2 5"],
        return_to_go: Float32[Tensor, "8 2 5"],
        terminated: Bool[Tensor, "8 5"],
        truncated: Bool[Tensor, "8 5"],
        valid: Bool[Tensor, "8 6"],
        diffusion_mask: Bool[Tensor, "8 5"],
        transition_mask: Bool[Tensor, "8 2 5"],
        episode_id: Int64[Tensor, "8"],
        t: Int64[Tensor, "8"],
        legal: Bool[Tensor, "8 2 6 3"] | None,
        state: Float32[Tensor, "8 6 5"] | None,
        alive: Bool[Tensor, "8 2 6"] | None,
    ) -> None: ...

    values = {name: value for name, value in vars(batch).items() if name != "history"}
    check(**values)
    assert all((values[name] is not None) == optional for name in ("legal", "state", "alive"))
    assert all(value.is_contiguous() for value in values.values() if value is not None)


def test_time_limits_are_truncations(tmp_path: Path) -> None:
    episodes = make_episodes(60)
    episodes.terminated[:] = False
    build(tmp_path / "toy", episodes)
    data = make_data(tmp_path / "toy", Window(0, 1), batch=100)
    data.setup()
    batches = take(data, 4)
    assert not any(batch.terminated.any() for batch in batches)
    assert any(batch.truncated.any() for batch in batches)


def test_held_out_episodes_are_never_trained_on(tmp_path: Path) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1))
    data.setup()
    trained = torch.cat([batch.episode_id for batch in take(data, 100)])
    evaluated = torch.cat([batch.episode_id for batch in data.val_dataloader()[0]])
    assert not is_heldout(trained, HELDOUT_FRACTION).any()
    assert is_heldout(evaluated, HELDOUT_FRACTION).all()
    assert set(trained.tolist()) | set(evaluated.tolist()) == set(range(60))


def test_an_epoch_visits_every_training_window_once(tmp_path: Path) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1), batch=10)
    data.setup()
    epoch = data.n_training_windows
    seen = [key for batch in take(data, epoch // 10 + 1) for key in keys(batch)][:epoch]
    assert len(set(seen)) == epoch
    lengths = make_episodes(60).length[~is_heldout(torch.arange(60), HELDOUT_FRACTION).numpy()]
    assert epoch == lengths.sum()


def test_held_out_windows_are_capped_and_spread(tmp_path: Path) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1), batch=4, heldout_windows=10)
    data.setup()
    loader = data.val_dataloader()[0]
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [batch.size for batch in batches] == [4, 4, 2]
    assert [keys(batch) for batch in batches] == [keys(batch) for batch in loader]
    n_heldout = int(is_heldout(torch.arange(60), HELDOUT_FRACTION).sum())
    assert len({e for batch in batches for e, _ in keys(batch)}) >= min(n_heldout, 10) // 2


def test_setup_reads_once(tmp_path: Path) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1))
    data.setup()
    table = data.table
    data.setup("fit")
    assert data.table is table


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 23])
def test_starting_late_equals_skipping(tmp_path: Path, num_workers: int, start: int) -> None:
    whole = make_data(tmp_path / "toy", Window(0, 1))
    whole.setup()
    expected = [keys(batch) for batch in take(whole, start + 6)][start:]
    late = make_data(tmp_path / "toy", Window(0, 1), num_workers=num_workers)
    late.trainer = FakeTrainer(global_step=start)
    late.setup()
    assert [keys(batch) for batch in take(late, 6)] == expected


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_windows_of_one(tmp_path: Path, world_size: int) -> None:
    one = make_data(tmp_path / "toy", Window(0, 1), heldout_windows=22)
    one.setup()
    ranks = []
    for rank in range(world_size):
        data = make_data(tmp_path / "toy", Window(0, 1), heldout_windows=22)
        data.trainer = FakeTrainer(rank=rank, world_size=world_size)
        data.setup()
        ranks.append((take(data, 30), list(data.val_dataloader()[0])))
    for step, batch in enumerate(take(one, 30)):
        parts = [keys(trained[step]) for trained, _ in ranks]
        assert all(len(part) == 16 // world_size for part in parts)
        assert list(chain(*parts)) == keys(batch)
    assert len({tuple(batch.size for batch in evaluated) for _, evaluated in ranks}) == 1
    evaluated = [key for _, batches in ranks for batch in batches for key in keys(batch)]
    assert len(set(evaluated)) == len(evaluated) == 22 // world_size * world_size


@pytest.mark.parametrize(
    ("size", "ranks", "choices"), [(10, 4, "8 or 12"), (3, 4, "choose 4"), (0, 1, "choose 1"), (1000, 3, "999 or 1002")]
)
def test_batches_that_do_not_divide_by_the_ranks(tmp_path: Path, size: int, ranks: int, choices: str) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1), batch=size)
    data.trainer = FakeTrainer(world_size=ranks)
    with pytest.raises(UserError, match=rf"data\.global_batch_size={size} .*{choices}"):
        data.setup()


def test_damage_behind_an_intact_manifest_is_named(tmp_path: Path) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1))
    shard = tmp_path / "toy" / "shard-000001.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=r"shard-000001\.tar"):
        data.setup()


@pytest.mark.parametrize(("accelerator", "pinned"), [(CPUAccelerator, False), (CUDAAccelerator, True)])
def test_memory_is_pinned_where_a_gpu_copies_from_it(tmp_path: Path, accelerator: type, pinned: bool) -> None:
    data = make_data(tmp_path / "toy", Window(0, 1))
    assert not data.pin_memory, "there is no trainer yet"
    data.trainer = FakeTrainer(accelerator=accelerator())
    assert data.pin_memory is pinned


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_to_who_trains(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal sends Ctrl-C to all of its processes, and the step under way may still need batches."""
    alone, shared = (make_data(tmp_path / "toy", Window(0, 1), num_workers=workers) for workers in (0, 2))
    for data in (alone, shared):
        data.setup()
        data.trainer = FakeTrainer()  # type: ignore[assignment]
    of_others = set(multiprocessing.active_children())  # an earlier test's iterator may wait for the garbage collector
    batches = iter(shared.train_dataloader())
    served = []
    for more in (1, 11):  # while the workers start, and while they work
        workers = set(multiprocessing.active_children()) - of_others
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid or 0, number)
        served += [keys(next(batches)) for _ in range(more)]
    assert served == [keys(batch) for batch in take(alone, 12)]
    del batches
    assert not workers & set(multiprocessing.active_children())
