"""What others have stored arrives as it was, and what is wrong with it is named."""

import contextlib
import io
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
from data_modules.storage.manifest import read_episodes, read_manifest
from dof_lightning.cli import main as cli
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec, check_compatible
from tests.fixtures.foreign_files import HORIZON, timeline, write_madiff, write_omar, write_vault

LENGTHS = [3, 6, 2, 6]


def episodes_of(path: Path) -> dict[int, EpisodeRows]:
    manifest = read_manifest(path)
    blocks = list(read_episodes(manifest))
    return {int(rows.episode_id[i]): rows.select(np.array([i])) for rows in blocks for i in range(rows.n_episodes)}


def battle() -> EnvSpec:
    agents = (AgentSpec("a", 5, 4), AgentSpec("b", 5, 4))
    return EnvSpec("battle", agents, "discrete", 6, 7, {"game": "battle"})


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


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vaults")
    with contextlib.redirect_stdout(io.StringIO()):
        write_vault(path, timeline(LENGTHS))
    return path / "battle.vlt" / "Good"


def test_a_real_vault(tmp_path: Path, vault: Path) -> None:
    arrays = timeline(LENGTHS)
    path = import_dataset("vault", vault, "battle", tmp_path, battle())
    found, start = episodes_of(path), 0
    for number, length in enumerate(LENGTHS):
        episode, rows = found[number], slice(start, start + length)
        assert episode.length.tolist() == [length]
        assert episode.terminated.tolist() == [number < 3], "the last one was cut"
        for name in ("actions", "rewards"):
            np.testing.assert_array_equal(episode.arrays()[name], arrays[name][rows])
        for name in ("observations", "legal", "state"):
            mine = episode.arrays()[name]
            np.testing.assert_array_equal(mine[:-1], arrays[name][rows])
            np.testing.assert_array_equal(mine[-1], mine[-2])
        start += length


def test_what_we_write_is_a_vault(tmp_path: Path, vault: Path) -> None:
    from flashbax.vault import Vault

    arrays = timeline(LENGTHS)
    path = import_dataset("vault", vault, "battle", tmp_path, battle())
    (tmp_path / "out.vlt").mkdir()
    export_dataset(path, "vault", tmp_path / "out.vlt" / "Good")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = Vault("out.vlt", rel_dir=str(tmp_path), vault_uid="Good").read().experience
    infos = theirs.pop("infos")
    for name, array in (theirs | {"legal": infos["legals"], "state": infos["state"]}).items():
        np.testing.assert_array_equal(np.asarray(array)[0], arrays[name])
    again = episodes_of(import_dataset("vault", tmp_path / "out.vlt", "again", tmp_path, battle()))
    for key, episode in episodes_of(path).items():
        for name, array in episode.arrays().items():
            np.testing.assert_array_equal(array, again[key].arrays()[name])


def test_shorter_agents_keep_their_sizes(tmp_path: Path) -> None:
    from tests.fixtures.dataset_files import build, make_environment, make_episodes

    build(tmp_path / "toy", make_episodes(20))
    export_dataset(tmp_path / "toy", "vault", tmp_path / "toy.vlt")
    inferred = import_dataset("vault", tmp_path / "toy.vlt", "again", tmp_path)
    agents = read_manifest(inferred).spec.environment.agents
    assert [agent.observation_dim for agent in agents] == [3, 4]
    known = import_dataset("vault", tmp_path / "toy.vlt", "known", tmp_path, make_environment())
    for path in (inferred, known):
        for key, episode in episodes_of(tmp_path / "toy").items():
            mine = episodes_of(path)[key]
            np.testing.assert_array_equal(mine.observations[:-1], episode.observations[:-1])
            assert mine.terminated.tolist() == episode.terminated.tolist()


def test_a_vault_that_is_none(tmp_path: Path, vault: Path) -> None:
    with pytest.raises(UserError, match="must lead to one vault"):
        import_dataset("vault", tmp_path, "battle", tmp_path, battle())
    (tmp_path / "metadata.json").write_text((vault / "metadata.json").read_text())
    with pytest.raises(UserError, match="cannot be read"):
        import_dataset("vault", tmp_path, "battle", tmp_path, battle())


@pytest.mark.parametrize("identities", [True, False])
def test_madiffs_battles(tmp_path: Path, identities: bool) -> None:
    arrays = timeline(LENGTHS)
    write_madiff(tmp_path / "madiff", arrays, LENGTHS, identities)
    found = episodes_of(import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path, battle()))
    assert [bool(found[i].terminated[0]) for i in range(4)] == [True, False, True, False], "6 steps are the limit"
    np.testing.assert_array_equal(found[2].observations[:-1], arrays["observations"][9:11])
    np.testing.assert_array_equal(found[2].actions, arrays["actions"][9:11])


def change_vault(path: Path, **changes: np.ndarray) -> Path:
    """A vault of these arrays."""
    arrays = timeline(LENGTHS) | changes
    with contextlib.redirect_stdout(io.StringIO()):
        write_vault(path, arrays)
    return path / "battle.vlt" / "Good"


def test_actions_that_are_no_choices_are_refused(tmp_path: Path) -> None:
    hot = np.eye(4, dtype=np.int32)[timeline(LENGTHS)["actions"]]
    with pytest.raises(UserError, match=r"actions\. has shape"):
        import_dataset("vault", change_vault(tmp_path, actions=hot), "battle", tmp_path, battle())
    halves = timeline(LENGTHS) | {"actions": timeline(LENGTHS)["actions"] * 0.5}
    write_madiff(tmp_path / "madiff", halves, LENGTHS, identities=False)
    with pytest.raises(UserError, match="no whole number"):
        import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path, battle())


def test_a_timeline_without_ends_is_no_episodes(tmp_path: Path) -> None:
    nothing = np.zeros((sum(LENGTHS), 2), bool)
    with pytest.raises(UserError, match="end an episode"):
        import_dataset("vault", change_vault(tmp_path, terminals=nothing, truncations=nothing), "x", tmp_path)


def test_columns_that_only_begin_like_agent_ids_are_not_thrown_away(tmp_path: Path) -> None:
    lengths = [6] * 50
    arrays = timeline(lengths)
    arrays["observations"][:256, :, :2] = np.eye(2)
    write_madiff(tmp_path / "madiff", arrays, lengths, identities=False)
    with pytest.raises(UserError, match=r"row 25[6-9]|row 26\d"):
        import_dataset("madiff", tmp_path / "madiff", "x", tmp_path)
    found = episodes_of(import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path, battle()))
    np.testing.assert_array_equal(found[49].observations[:-1], arrays["observations"][294:])


def test_a_source_that_has_changed_is_another_dataset(tmp_path: Path, tag: EnvSpec) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 2000, sizes=((16, 2),) * 3)
    import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)
    rewards = np.load(tmp_path / "omar" / "seed_0_data" / "rews_0.npy")
    rewards[len(rewards) // 2] += 1
    np.save(tmp_path / "omar" / "seed_0_data" / "rews_0.npy", rewards)
    with pytest.raises(UserError, match="another dataset"):
        import_dataset("omar", tmp_path / "omar", "tag", tmp_path, tag)


def test_a_state_that_is_not_there_is_not_promised(tmp_path: Path) -> None:
    write_madiff(tmp_path / "madiff", timeline(LENGTHS), LENGTHS)
    assert battle().state_dim == 7
    spec = read_manifest(import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path, battle())).spec
    assert spec.state_dim == 0
    check_compatible(spec, battle())


IMPORT = """
import sys
from pathlib import Path
import tests.unit.data_modules.convert.test_import as here
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


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 4)
    source = [f"source={tmp_path}/omar", f"data.root={tmp_path}"]
    cli.run(["data", "import", "format=omar", "name=tag", "env=mpe_tag", "env.prey=still", *source])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "tag")
    assert read_manifest(tmp_path / "tag").spec.environment.name == "mpe_tag"
    cli.run(["data", "export", f"dataset={tmp_path}/tag", "format=omar", f"output={tmp_path}/out"])
    assert (tmp_path / "out" / "seed_0_data" / "acs_3.npy").exists()
    for typed, complaint in (
        (["import", "format=omar", "name=x", *source, "depth=3"], "dof data import knows format="),
        (["import", "format=rlds", "name=x", *source], "choose one of omar, vault"),
        (["import", "format=omar", "name=x", f"source={tmp_path}/none"], "is not there"),
        (["import", "format=vault", "name=x", f"source={tmp_path}/omar", "horizon=3"], "no option of format=vault"),
        (["export", f"dataset={tmp_path}/tag", "format=omar", f"output={tmp_path}/out"], "exists"),
        (["export", f"dataset={tmp_path}/tag", "format=csv", f"output={tmp_path}/csv"], "choose one of omar, vault"),
    ):
        with pytest.raises(UserError, match=complaint):
            cli.run(["data", *typed])
