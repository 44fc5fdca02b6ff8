"""Vaults as others expect them: where they lie, what they are padded with, and which layouts are named when refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_modules.convert.exporting import export_dataset
from data_modules.convert.import_vault import leaf_spec, tensorstore
from data_modules.convert.importing import import_dataset
from data_modules.storage.manifest import read_manifest
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_environment, make_episodes
from tests.fixtures.foreign_files import timeline, write_madiff, write_plain_vault
from tests.fixtures.shard_reading import assert_same, read_all, sorted_by_id


def leaf(folder: Path, name: str) -> np.ndarray:
    return np.asarray(tensorstore().open(leaf_spec(folder, name), open=True, read=True).result().read().result())


@pytest.mark.parametrize("name", ["with space", "a#b", "what?", "50%25", "100%", "ä"])
def test_folders_are_paths_and_no_addresses(tmp_path: Path, name: str) -> None:
    source = write_plain_vault(tmp_path / name / "vault", timeline([4] * 60))
    path = import_dataset("vault", source, "mine", tmp_path)
    export_dataset(path, "vault", tmp_path / name / "again")
    again = import_dataset("vault", tmp_path / name / "again", "again", tmp_path)
    np.testing.assert_array_equal(sorted_by_id(read_all(again)).actions, sorted_by_id(read_all(path)).actions)
    assert sorted(file.name for file in (tmp_path / name).iterdir()) == ["again", "vault"]


def test_what_agents_do_not_have_is_zero(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(60))
    export_dataset(tmp_path / "toy", "vault", tmp_path / "out")
    seen = leaf(tmp_path / "out", "observations.")
    assert np.isfinite(seen).all()
    assert not seen[0, :, 0, 3:].any()
    agents = read_manifest(import_dataset("vault", tmp_path / "out", "again", tmp_path)).spec.environment.agents
    assert agents == make_environment().agents, "their sizes are told beside the arrays"
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    told["dof_lightning"]["agents"][1][1] = 5
    (tmp_path / "out" / "metadata.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"metadata\.json: dof_lightning describes other agents"):
        import_dataset("vault", tmp_path / "out", "other", tmp_path)


def test_a_choice_that_nobody_took_and_ids_that_were_observed_come_back(tmp_path: Path) -> None:
    episodes = make_episodes(60, discrete=True, optional=False)
    episodes.actions[:, 1] %= 2
    episodes.observations[:, :, :, :2] = np.eye(2)[:, None]
    whole = build(tmp_path / "toy", episodes, discrete=True)
    export_dataset(tmp_path / "toy", "vault", tmp_path / "out")
    again = read_manifest(import_dataset("vault", tmp_path / "out", "again", tmp_path))
    assert again.spec.environment.agents == whole.spec.environment.agents


def test_deaths_come_back(tmp_path: Path) -> None:
    episodes = make_episodes(60)
    assert episodes.alive is not None
    episodes.alive[:] = np.arange(episodes.alive.shape[2]) <= np.array([[2], [9]])  # agent 0 dies in its second step
    build(tmp_path / "toy", episodes)
    export_dataset(tmp_path / "toy", "vault", tmp_path / "out")
    again = sorted_by_id(read_all(import_dataset("vault", tmp_path / "out", "again", tmp_path)))
    whole = sorted_by_id(read_all(tmp_path / "toy"))
    seen = np.setdiff1d(np.arange(len(whole.observations)), np.cumsum(whole.length + 1) - 1)
    assert again.alive is not None
    assert whole.alive is not None
    np.testing.assert_array_equal(again.alive[seen], whole.alive[seen])


def test_others_padding_with_minus_infinity_is_read_as_sizes(tmp_path: Path) -> None:
    arrays = timeline([4] * 60)
    arrays["observations"][:, 0, 3:] = -np.inf
    path = import_dataset("vault", write_plain_vault(tmp_path / "vault", arrays), "mine", tmp_path)
    assert [agent.observation_dim for agent in read_manifest(path).spec.environment.agents] == [3, 5]
    rows = sorted_by_id(read_all(path))
    assert not rows.observations[:, 0, 3:].any()
    kept = np.setdiff1d(np.arange(len(rows.observations)), np.cumsum(rows.length + 1) - 1)
    np.testing.assert_array_equal(rows.observations[kept, 0, :3], arrays["observations"][:, 0, :3])


def test_a_state_that_is_missing_is_said_and_can_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_madiff(tmp_path / "madiff", timeline([4] * 60), [4] * 60)
    path = import_dataset("madiff", tmp_path / "madiff", "mine", tmp_path)
    export_dataset(path, "vault", tmp_path / "plain")
    assert "no infos.state" in capsys.readouterr().err
    export_dataset(path, "vault", tmp_path / "joint", state="observations")
    assert "no infos.state" not in capsys.readouterr().err
    seen = leaf(tmp_path / "joint", "observations.")
    np.testing.assert_array_equal(leaf(tmp_path / "joint", "infos.state."), seen.reshape(*seen.shape[:2], -1))
    for format_, state in (("vault", "rows"), ("omar", "observations")):
        with pytest.raises(UserError, match=f"state={state}"):
            export_dataset(path, format_, tmp_path / "none", state=state)
    build(tmp_path / "toy", make_episodes(60))
    with pytest.raises(UserError, match="already has a global state"):
        export_dataset(tmp_path / "toy", "vault", tmp_path / "none", state="observations")


def test_dictionaries_by_agent_are_named(tmp_path: Path) -> None:
    source = write_plain_vault(tmp_path / "vault", timeline([4] * 60))
    told = json.loads((source / "metadata.json").read_text())
    told["structure_shape"]["observations"] = {f"agent_{i}": "(1, 240, 5)" for i in range(4)}
    (source / "metadata.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"observations are a dictionary by agent \(agent_0, .*agent_2, \.\.\.\)"):
        import_dataset("vault", source, "mine", tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (
            "terminals",
            lambda a: np.where(np.arange(240)[:, None] == 7, np.nan, a),
            r"terminals\., row 7: nan is neither",
        ),
        ("truncations", lambda a: 2.0 * a, r"truncations\., row 239: 2 is neither true \(1\) nor false \(0\)"),
        ("legal", lambda a: a - 1, r"infos\.legals\., row \d+: -1 is neither"),
    ],
)
def test_marks_that_are_no_truth_are_refused(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], complaint: str
) -> None:
    arrays = timeline([4] * 60)
    source = write_plain_vault(tmp_path / "vault", arrays | {name: change(arrays[name].astype(np.float32))})
    with pytest.raises(UserError, match=complaint):
        import_dataset("vault", source, "mine", tmp_path)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_marks_as_numbers_are_truth(tmp_path: Path, kind: type) -> None:
    arrays = timeline([4] * 60)
    names = ("terminals", "truncations", "legal")
    as_numbers = write_plain_vault(tmp_path / "numbers", arrays | {name: arrays[name].astype(kind) for name in names})
    found = read_all(import_dataset("vault", as_numbers, "mine", tmp_path))
    expected = read_all(import_dataset("vault", write_plain_vault(tmp_path / "bool", arrays), "other", tmp_path))
    assert_same(found, expected)


def test_a_state_of_no_width_is_no_state(tmp_path: Path) -> None:
    arrays = timeline([4] * 60)
    del arrays["state"]
    source = write_plain_vault(tmp_path / "vault", arrays)
    made = leaf_spec(source, "infos.state.") | {"metadata": {"chunks": [1, 240, 1]}}
    tensorstore().open(made, create=True, shape=[1, 240, 0], dtype=np.float32).result()
    manifest = read_manifest(import_dataset("vault", source, "mine", tmp_path))
    assert manifest.spec.state_dim == 0
    assert "state" not in manifest.members


@pytest.mark.parametrize("version", ["nan", "inf", "2.0"])
def test_versions_that_are_not_known(tmp_path: Path, version: str) -> None:
    source = write_plain_vault(tmp_path / "vault", timeline([4] * 60))
    told = json.loads((source / "metadata.json").read_text())
    (source / "metadata.json").write_text(json.dumps(told | {"version": version}))
    with pytest.raises(UserError, match=rf"vaults of version {version} are not known, only 1\.x"):
        import_dataset("vault", source, "mine", tmp_path)


def test_madiffs_robots(tmp_path: Path) -> None:
    arrays = timeline([4] * 60)
    arrays["actions"] = np.random.default_rng(0).uniform(-1, 1, (240, 2, 3)).astype(np.float32)
    write_madiff(tmp_path / "madiff", arrays, [4] * 60)
    (tmp_path / "madiff" / "legals.npy").unlink()
    path = import_dataset("madiff", tmp_path / "madiff", "mine", tmp_path)
    assert read_manifest(path).spec.action_kind == "continuous"
    np.testing.assert_array_equal(sorted_by_id(read_all(path)).actions, arrays["actions"])


@pytest.mark.parametrize("folder", ["", "seed_0_data"])
def test_madiffs_other_layout_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "robot" / folder).mkdir(parents=True)
    np.save(tmp_path / "robot" / folder / "obs_0.npy", np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"files per agent .* try format=omar"):
        import_dataset("madiff", tmp_path / "robot", "mine", tmp_path)
