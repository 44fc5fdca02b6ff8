"""Memory of writing and streaming a gigabyte, in processes of their own (slow; `benchmarks scale` writes 20)."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from benchmarks import large_data
from benchmarks.scale import WINDOWS, Settings, alone, read, scale, watched, write
from data_modules.storage.manifest import read_manifest
from dof_lightning.errors import UserError

LIMIT_MB = 300


@pytest.mark.slow
def test_memory_is_bounded_and_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    sizes = (0.4, 1.2)
    written = [alone(write, tmp_path / str(size), size) for size in sizes]
    imported = [alone(write, tmp_path / f"import_{size}" / "set", size, "omar") for size in sizes]
    streamed = [alone(read, tmp_path / str(size), *WINDOWS[0], 250.0, 0, 8.0) for size in sizes]
    for growth in ([found.growth_mb for found in phase] for phase in (written, imported, streamed)):
        assert max(growth) < LIMIT_MB
        assert growth[1] < growth[0] + 50


def test_allocations_are_seen() -> None:
    # Mapped, not allocated: an allocator would hand out pages that earlier tests have freed, and nothing would grow.
    n_bytes, flags = 50_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, n_bytes, flags=flags) as pages, watched(every_s=0.001) as memory:
        pages.write(b"1" * n_bytes)
    assert 45 < memory.mb < 120


def test_what_is_written_is_as_large_as_was_asked_for(tmp_path: Path) -> None:
    n_episodes = large_data.episodes_for(3e7)
    assert large_data.write_shards(tmp_path / "shards", n_episodes).n_bytes == pytest.approx(3e7, rel=0.2)
    n_bytes = large_data.write_omar_folder(tmp_path / "omar", large_data.omar_episodes_for(3e7))
    assert n_bytes == pytest.approx(3e7, rel=0.3)
    first = np.load(tmp_path / "omar" / "obs_0.npy", mmap_mode="r")
    assert np.array_equal(np.load(tmp_path / "omar" / "next_obs_0.npy", mmap_mode="r")[:24], first[1:25])


def test_an_import_is_measured_and_its_source_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scale.alone", lambda function, *arguments: function(*arguments))
    found = write(tmp_path / "large", 0.012, "omar")
    assert found.source_bytes == pytest.approx(1.2e7, rel=0.1)
    manifest = read_manifest(tmp_path / "large")
    assert found.n_bytes == manifest.n_bytes
    assert manifest.behavior["format"] == "omar"
    assert not (tmp_path / "omar").exists()


def test_settings_of_the_command_line(tmp_path: Path) -> None:
    assert Settings.parse({"size_gb": "20", "folder": str(tmp_path)}).size_gb == 20.0
    for wrong, words in (
        ({"size": "1"}, "unknown key"),
        ({"size_gb": "x"}, "number"),
        ({"folder": "/no"}, "not there"),
        ({"importer": "csv"}, "choose omar"),
    ):
        with pytest.raises(UserError, match=words):
            Settings.parse(wrong)


@pytest.mark.slow
def test_the_benchmark_leaves_nothing_behind(tmp_path: Path) -> None:
    table = scale(Settings(size_gb=0.3, folder=str(tmp_path), seconds=1.0))
    assert table.count("\n| 0.3 GB") == len(WINDOWS)
    assert not list(tmp_path.iterdir())
