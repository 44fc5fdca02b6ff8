"""Vaults and MADIFF's folders arrive as they were, and what is wrong with them is named; the commands."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_modules.convert.exporting import export_dataset
from data_modules.convert.importing import import_dataset
from data_modules.storage.manifest import read_manifest
from dof_lightning.cli import main as cli
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec, check_compatible
from tests.fixtures.foreign_files import timeline, write_madiff, write_omar, write_vault
from tests.fixtures.shard_reading import episodes_of

LENGTHS = [3, 6, 2, 6]


def battle() -> EnvSpec:
    agents = (AgentSpec("a", 5, 4), AgentSpec("b", 5, 4))
    return EnvSpec("battle", agents, "discrete", 6, 7, {"game": "battle"})


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
    with pytest.raises(UserError, match="must contain one vault"):
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
    with pytest.raises(UserError, match="not a whole number"):
        import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path, battle())


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("legals", lambda a: np.where(np.arange(17)[:, None, None] == 8, np.nan, a), "row 8: nan is neither true"),
        ("legals", lambda a: a * 2, r"row \d: 2 is neither true \(1\) nor false \(0\)"),
        ("legals", lambda a: a.astype(str), "has values of type <U5, expected are numbers"),
        ("rewards", lambda a: a.astype(str), "has values of type <U"),
        ("path_lengths", lambda a: a.astype(str), "has values of type <U"),
        ("path_lengths", lambda a: a[:, None], r"has shape \[4, 1\], expected \[any\]"),
        ("path_lengths", lambda a: a[0], r"has shape \[\], expected \[any\]"),
        ("path_lengths", lambda a: a[:0], "is empty: there are no episodes"),
        ("path_lengths", lambda a: a - [0.0, 0.5, 0.0, 0.0], r"entry 1: 5\.5 steps; a path has a whole number"),
        ("path_lengths", lambda a: a * np.nan, "entry 0: nan steps"),
        ("path_lengths", lambda a: a - [0, 0, 2, 0], "entry 2: 0 steps"),
    ],
)
def test_madiffs_faults_are_one_line_and_leave_nothing(
    tmp_path: Path, file: str, change: Callable[[np.ndarray], np.ndarray], complaint: str
) -> None:
    write_madiff(tmp_path / "madiff", timeline(LENGTHS), LENGTHS)
    path = tmp_path / "madiff" / f"{file}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(UserError, match=rf"{file}\.npy.* ?{complaint}") as raised:
        import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path, battle())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "battle").exists()


def test_madiffs_choices_that_are_not_finite(tmp_path: Path) -> None:
    arrays = timeline(LENGTHS)
    write_madiff(tmp_path / "madiff", arrays | {"actions": arrays["actions"] * np.nan}, LENGTHS)
    (tmp_path / "madiff" / "legals.npy").unlink()
    with pytest.raises(UserError, match=r"actions\.npy, row 0: a value is not finite"):
        import_dataset("madiff", tmp_path / "madiff", "battle", tmp_path)


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


def test_a_state_that_is_not_there_is_not_promised(tmp_path: Path) -> None:
    write_madiff(tmp_path / "madiff", timeline(LENGTHS), LENGTHS)
    assert battle().state_dim == 7
    for name in ("none", "empty"):
        spec = read_manifest(import_dataset("madiff", tmp_path / "madiff", name, tmp_path, battle())).spec
        assert spec.state_dim == 0
        check_compatible(spec, battle())
        np.save(tmp_path / "madiff" / "states.npy", np.zeros((sum(LENGTHS), 0), np.float32))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 4)
    source = [f"source={tmp_path}/omar", f"data.root={tmp_path}"]
    cli.run(["data", "import", "format=omar", "name=tag", "env=mpe_tag", "env.prey=still", *source])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "tag")
    assert read_manifest(tmp_path / "tag").spec.environment.name == "mpe_tag"
    cli.run(["data", "export", f"dataset={tmp_path}/tag", "format=omar", f"output={tmp_path}/out"])
    assert (tmp_path / "out" / "seed_0_data" / "acs_3.npy").exists()
    for typed, complaint in (
        (["import", "format=omar", "name=x", *source, "depth=3"], "dof data import takes format="),
        (["import", "format=rlds", "name=x", *source], "choose one of omar, vault"),
        (["import", "format=omar", "name=x", f"source={tmp_path}/none"], "does not exist"),
        (["import", "format=vault", "name=x", f"source={tmp_path}/omar", "horizon=3"], "no option of format=vault"),
        (["export", f"dataset={tmp_path}/tag", "format=omar", f"output={tmp_path}/out"], "exists"),
        (["export", f"dataset={tmp_path}/tag", "format=csv", f"output={tmp_path}/csv"], "choose one of omar, vault"),
    ):
        with pytest.raises(UserError, match=complaint):
            cli.run(["data", *typed])
