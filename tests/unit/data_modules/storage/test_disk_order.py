"""The order on disk is one permutation of the whole dataset, whatever the buffer; memory does not grow with it."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_modules.storage import dataset_statistics, store
from data_modules.storage.arrays import EpisodeRows, concatenate
from data_modules.storage.dataset_statistics import ReturnStatistics, StatisticsAccumulator, quantile_knots
from data_modules.storage.disk_order import permute
from dof_lightning.spec import AgentSpec, EnvSpec
from tests.fixtures.dataset_files import build, make_environment, make_episodes
from tests.fixtures.shard_reading import assert_same, read_all


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("cut", [1, 7, 40])
@pytest.mark.parametrize("buffer_bytes", [1, 3000, 20_000])
def test_bytes_do_not_depend_on_buffer_and_blocks(tmp_path: Path, buffer_bytes: int, cut: int) -> None:
    rows = make_episodes(120).flatten()
    build(tmp_path / "whole", rows.padded())
    parts = [rows.select(np.arange(a, min(a + cut, 120))).padded() for a in range(0, 120, cut)]
    build(tmp_path / "parts", *parts, buffer_bytes=buffer_bytes)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")


def test_episodes_come_whole_in_an_order_of_their_ids_alone(tmp_path: Path) -> None:
    rows = make_episodes(300, optional=False).flatten()
    orders = []
    for seed, first in ((0, 0), (0, 150), (1, 0)):
        blocks = [rows.slice(first, 300), rows.slice(0, first)] if first else [rows]
        groups = list(permute(blocks, seed, 300, 16, 4000, tmp_path / "scratch"))
        assert [group.n_episodes for group in groups] == [16] * 18 + [12]
        found = concatenate(groups)
        assert_same(found.select(np.argsort(found.episode_id)), rows)
        orders.append(found.episode_id)
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not (tmp_path / "scratch").exists()


def test_a_builder_that_was_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    scratch = tmp_path / ".toy.building" / ".unsorted"
    scratch.mkdir(parents=True)
    (scratch / "0000").write_bytes(b"rubbish")
    build(tmp_path / "toy", make_episodes(50), make_episodes(50, first_id=50), buffer_bytes=1)
    assert read_all(tmp_path / "toy").n_episodes == 100
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == ["toy"]


def test_arrays_that_only_some_blocks_have_are_refused(tmp_path: Path) -> None:
    blocks = [make_episodes(50), replace(make_episodes(50, first_id=50), legal=None)]
    for buffer_bytes in (1, 1 << 30):
        with pytest.raises(ValueError, match="some blocks contain"):
            build(tmp_path / "toy", *blocks, buffer_bytes=buffer_bytes)


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    def made(n: int) -> Iterator[EpisodeRows]:
        for first in range(0, n, 100):
            yield make_episodes(100, first_id=first, optional=False).flatten()

    peaks = []
    for n in (3_000, 12_000):
        tracemalloc.start()
        found = sum(group.n_episodes for group in permute(made(n), 0, n, 64, 200_000, tmp_path / "scratch"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found == n
    assert peaks[1] < 1.5 * peaks[0], peaks
    assert max(peaks) < 5 * 200_000, peaks  # small arrays count for much here


def test_samples_of_large_episodes_hold_fewer_of_them() -> None:
    def sized(observation: int, horizon: int) -> EnvSpec:
        return EnvSpec("toy", (AgentSpec("a", observation, 2),) * 8, "continuous", horizon, 0, {})

    assert store.fitting_sample(make_environment()) == 256
    bytes_of_one = 8 * 4 * (80 * 121 + 2 * 120 + 120)
    assert store.fitting_sample(sized(80, 120)) == 4 * 2**20 // bytes_of_one
    assert store.fitting_sample(sized(1000, 1000)) == 1


def test_knots_of_large_episodes_take_fewer_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_statistics, "KNOT_BYTES", 100 * dataset_statistics._largest_episode(make_environment()))
    accumulator = StatisticsAccumulator(make_environment(), 0.9, 3000)
    rows = make_episodes(3000, optional=False).flatten()
    accumulator.update(rows)
    kept = sum(len(part) for part in accumulator._dimensions["observations"].sample)
    assert 0.5 * 100 / 3000 < kept / len(rows.observations) < 1.5 * 100 / 3000
    found = accumulator.finish().observations
    np.testing.assert_allclose(found.knots[0], rows.observations[:, :, :].min(0), atol=0.7)
    np.testing.assert_allclose(found.knots[500], np.quantile(rows.observations, 0.5, axis=0), atol=0.35)


def test_returns_of_very_many_episodes_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_statistics, "RETURN_EPISODES", 2000)
    returns = np.random.default_rng(0).normal(3.0, 2.0, size=20_000)
    found = ReturnStatistics(len(returns))
    for part, ids in zip(np.split(returns, 10), np.split(np.arange(20_000), 10), strict=True):
        found.update(part, ids)
    assert 1700 < sum(map(len, found._kept)) < 2300
    assert found.mean_and_std() == (pytest.approx(returns.mean()), pytest.approx(returns.std()))
    knots = found.knots()
    assert knots[[0, -1]] == pytest.approx([returns.min(), returns.max()])
    np.testing.assert_allclose(knots[50:-50], quantile_knots(returns)[50:-50], atol=0.3)
