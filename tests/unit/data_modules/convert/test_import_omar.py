"""OMAR's folders arrive as they were, what is wrong with them is named, and an import that is killed goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import data_modules.convert.base as base
import data_modules.convert.import_omar as omar
import data_modules.storage.store as store
from data_modules.convert.exporting import export_dataset
from data_modules.convert.importing import import_dataset
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec
from tests.fixtures.foreign_files import HORIZON, write_omar
from tests.fixtures.shard_reading import episodes_of


@pytest.fixture
def tag() -> EnvSpec:
    spec: EnvSpec = configuration.build(
        configuration.compose(["experiment=mpe_spread_random", "env=mpe_tag", "env.prey=still"]).env
    ).spec
    return spec


def test_omars_folders_keep_the_prey_and_every_number(tmp_path: Path, tag: EnvSpec) -> None:
    for seed in (0, 1):
        write_omar(tmp_path / "omar" / f"seed_{seed}_data", 8, seed)
    found = episodes_of(import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag))
    assert sorted(found) == list(range(16))
    episode = found[11].padded()  # the fourth of seed 1
    rows = slice(3 * HORIZON, 4 * HORIZON)
    for kind, agent, mine in (
        ("obs", 1, episode.observations[0, 1, :-1]),
        ("next_obs", 2, episode.observations[0, 2, 1:]),
        ("acs", 0, episode.actions[0, 0]),
        ("obs", 3, np.asarray(episode.extra_observations)[0, 0, :-1]),
        ("acs", 3, np.asarray(episode.extra_actions)[0, 0]),
    ):
        theirs = np.load(tmp_path / "omar" / "seed_1_data" / f"{kind}_{agent}.npy")[rows]
        np.testing.assert_array_equal(mine, theirs)
    assert not episode.terminated.any(), "a time limit is no terminal"
    rewards = np.load(tmp_path / "omar" / "seed_1_data" / "rews_2.npy")[rows, 0]
    np.testing.assert_allclose(episode.rewards[0, 2], rewards, rtol=1e-6)


def test_omars_round_trip_is_the_identity(tmp_path: Path, tag: EnvSpec) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 30)
    first = import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)
    export_dataset(first, "omar", tmp_path / "again")
    for file in (tmp_path / "omar" / "seed_0_data").iterdir():
        theirs, ours = np.load(file), np.load(tmp_path / "again" / "seed_0_data" / file.name)
        np.testing.assert_array_equal(theirs.reshape(ours.shape).astype(ours.dtype), ours)
    second = import_dataset("omar", tmp_path / "again", "tag_again", tmp_path, tag)
    for key, episode in episodes_of(first).items():
        for name, array in episode.arrays().items():
            np.testing.assert_array_equal(array, episodes_of(second)[key].arrays()[name])


def _break(tmp_path: Path, file: str, change: object) -> None:
    path = tmp_path / "omar" / "seed_0_data" / file
    array = np.load(path)
    array = change(array)  # type: ignore[operator]
    path.unlink()
    if array is not None:
        np.save(path, array, allow_pickle=True)


def _set(row: int, value: float) -> object:
    def change(array: np.ndarray) -> np.ndarray:
        array[row] = value
        return array

    return change


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("acs_1.npy", _set(31, np.nan), r"acs_1\.npy, row 31: a value is not finite"),
        ("acs_1.npy", _set(31, 1.5), r"acs_1\.npy, row 31: action 1\.5 is not within"),
        ("next_obs_3.npy", _set(26, 7.0), r"next_obs_3\.npy, episode 1: the next observation is not the following row"),
        ("dones_0.npy", _set(30, 1), r"dones_0\.npy, row 30: an episode ends before its last step"),
        ("dones_0.npy", _set(24, np.nan), r"dones_0\.npy, row 24: nan is neither true \(1\) nor false \(0\)"),
        ("dones_0.npy", lambda array: array.astype(str), r"dones_0\.npy has values of type <U"),
        ("obs_0.npy", lambda array: array[0, 0], r"obs_0\.npy has shape \[\], expected \[any, any\]"),
        ("rews_2.npy", lambda array: array[:-1], r"rews_2\.npy has shape"),
        ("obs_2.npy", lambda array: array[:, :-1], r"next_obs_2\.npy has shape"),
        ("obs_1.npy", lambda array: array.astype(object), r"obs_1\.npy is no plain \.npy array"),
        ("acs_3.npy", lambda array: None, r"acs_3\.npy is missing"),
        ("obs_3.npy", lambda array: None, r"obs_3\.npy is missing"),
        ("obs_0.npy", lambda array: array[:-1], "not whole episodes of 25 steps"),
    ],
)
def test_faults_name_the_file_and_the_place(
    tmp_path: Path, tag: EnvSpec, file: str, change: object, complaint: str
) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 4)
    _break(tmp_path, file, change)
    with pytest.raises(UserError, match=complaint):
        import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)
    assert not (tmp_path / "tag").exists()


def test_another_world_is_refused_before_anything_is_written(tmp_path: Path, tag: EnvSpec) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 4, sizes=((18, 2),) * 3)
    with pytest.raises(UserError, match=r"observation sizes \[18, 18, 18\] instead of \[16, 16, 16\]"):
        import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)
    assert [path.name for path in tmp_path.iterdir()] == ["omar"]


def test_a_source_that_has_changed_is_another_dataset(tmp_path: Path, tag: EnvSpec) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 2000, sizes=((16, 2),) * 3)
    import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)
    rewards = np.load(tmp_path / "omar" / "seed_0_data" / "rews_0.npy")
    rewards[len(rewards) // 2] += 1
    np.save(tmp_path / "omar" / "seed_0_data" / "rews_0.npy", rewards)
    with pytest.raises(UserError, match="another dataset"):
        import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)


IMPORT = """
import sys
from pathlib import Path
import tests.unit.data_modules.convert.test_import_omar as here
here.import_slowly(Path(sys.argv[1]), Path(sys.argv[2]), pause=0.05)
"""


def import_slowly(source: Path, root: Path, pause: float = 0.0) -> int:
    """Imports in many small blocks; how many were read."""
    reads = 0
    read = omar.OmarSource._read

    def counted(self: omar.OmarSource, *arguments: Any) -> EpisodeRows:
        nonlocal reads
        reads += 1
        sys.stdout.write("reading\n")
        sys.stdout.flush()
        time.sleep(pause)
        return read(self, *arguments)

    small = {"layout": store.Layout(buffer_bytes=1 << 16)}
    with (
        patch.object(omar.OmarSource, "_read", counted),
        patch.object(base, "BLOCK_BYTES", 1 << 14),
        patch.object(store.write_dataset, "__kwdefaults__", small),
    ):
        import_dataset("omar", source, "tag", root)
    return reads


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    source, whole, killed = (tmp_path / name for name in ("omar", "whole", "killed"))
    write_omar(source / "seed_0_data", 60)
    reads = import_slowly(source, whole)
    paths = [str(Path(__file__).parents[4]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IMPORT, str(source), str(killed)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for _ in range(2 * reads // 3):
        assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert 0 < import_slowly(source, killed) < reads
    files = sorted((whole / "tag").iterdir())
    assert len(files) > 2
    for file in files:
        assert file.read_bytes() == (killed / "tag" / file.name).read_bytes()
    assert not [path for path in killed.iterdir() if path.name.endswith(".unsorted")]
