"""Datasets are built all or nothing, and by one process at a time."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_modules.storage.arrays import Episodes
from data_modules.storage.manifest import read_manifest
from data_modules.storage.store import Description, Layout, write_dataset
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_environment, make_episodes
from tests.fixtures.processes import exit_code, start
from tests.fixtures.shard_reading import assert_same, read_all, sorted_by_id


def _stuck_build(path: Path) -> None:
    def blocks() -> Iterator[Episodes]:
        for i in range(4):
            yield make_episodes(50, seed=i, first_id=50 * i)
        (path.parent / "half_written").touch()
        time.sleep(600)

    layout = Layout(episodes_per_sample=8, buffer_bytes=1)
    write_dataset(path, _toy(), blocks=blocks(), n_episodes=250, seed=0, layout=layout)


def _counted_build(path: Path) -> None:
    def blocks() -> Iterator[Episodes]:
        with (path.parent / "collections").open("a") as file:
            file.write("x")
        time.sleep(1.0)
        yield make_episodes(50)

    write_dataset(path, _toy(), blocks=blocks(), n_episodes=50, seed=0, layout=Layout(episodes_per_sample=8))


def _toy() -> Description:
    return Description(
        name="toy_dataset", environment=make_environment(), recipe={"data": "toy"}, behavior={}, made_by_recipe=True
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_build_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    process = start(_stuck_build, path)
    wait_for(lambda: (tmp_path / "half_written").exists())
    process.kill()
    assert exit_code(process) == -signal.SIGKILL
    assert list(tmp_path.glob(".toy.building/*.tar"))
    with pytest.raises(UserError, match="no such dataset"):
        read_manifest(path)
    episodes = make_episodes(30)
    build(path, episodes)
    assert_same(sorted_by_id(read_all(path)), episodes.flatten())
    assert not (tmp_path / ".toy.building").exists()


def test_two_builders_collect_once(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    processes = [start(_counted_build, path) for _ in range(2)]
    assert [exit_code(process) for process in processes] == [0, 0]
    assert (tmp_path / "collections").read_text() == "x"
    assert read_manifest(path).n_episodes == 50


def test_a_folder_with_another_dataset_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(10))
    with pytest.raises(UserError, match=r"another dataset.*delete"):
        build(tmp_path / "toy", make_episodes(10), recipe={"data": "other"})
