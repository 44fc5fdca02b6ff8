"""Minari's dictionaries by agent."""

from pathlib import Path

import numpy as np
import pytest

import data_modules.convert.import_minari as minari_source
from data_modules.convert.importing import import_dataset
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec
from tests.fixtures.foreign_files import write_minari
from tests.fixtures.shard_reading import read_all, sorted_by_id


def _episodes(path: Path) -> list[EpisodeRows]:
    """The episodes in the order of their ids."""
    rows = sorted_by_id(read_all(path))
    return [rows.select(np.array([i])) for i in range(rows.n_episodes)]


def test_minaris_dictionaries(tmp_path: Path) -> None:
    lengths = [4, 2, 5]
    buffers = write_minari(tmp_path / "set", lengths)
    found = _episodes(import_dataset("minari", tmp_path / "set", "mine", tmp_path))
    assert [int(found[i].length[0]) for i in range(3)] == lengths
    assert [bool(found[i].terminated[0]) for i in range(3)] == [False, True, False]
    np.testing.assert_allclose(found[2].observations[:, 1, :2], buffers[2].observations["b"], rtol=1e-6)
    np.testing.assert_allclose(found[2].actions[:, 0, 0], buffers[2].actions["a"][:, 0] / 2 - 1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[2].actions[:, 1], buffers[2].actions["b"] / 2, rtol=1e-5)


def test_minaris_episodes_without_a_last_observation(tmp_path: Path) -> None:
    buffers = write_minari(tmp_path / "set", [4, 2, 5], missing_rows={2: 1})
    found = _episodes(import_dataset("minari", tmp_path / "set", "mine", tmp_path))
    assert [found[i].arrays()["unseen_end"].tolist() for i in range(3)] == [[False], [False], [True]]
    np.testing.assert_allclose(found[2].observations[:-1, 1, :2], buffers[2].observations["b"], rtol=1e-6)
    np.testing.assert_array_equal(found[2].observations[-1], found[2].observations[-2])
    write_minari(tmp_path / "broken", [4, 2, 5], missing_rows={1: 2})
    with pytest.raises(UserError, match="episode 1 has 2 rewards and 1 observations of an agent"):
        import_dataset("minari", tmp_path / "broken", "other", tmp_path)


def test_minaris_units_are_compared_with_the_environments(tmp_path: Path) -> None:
    buffers = write_minari(tmp_path / "set", [4, 2, 5])
    agents = (AgentSpec("a", 3, 1), AgentSpec("b", 2, 2))
    plain = EnvSpec("toy", agents, "continuous", 5, 0, {"game": "toy"})
    with pytest.raises(UserError, match=r"declares actions in \[-2, 4\], env=toy acts in \[-1, 1\].*action_range="):
        import_dataset("minari", tmp_path / "set", "mine", tmp_path, plain)
    assert not (tmp_path / "mine").exists()
    found = _episodes(import_dataset("minari", tmp_path / "set", "mine", tmp_path, plain, {"action_range": "source"}))
    np.testing.assert_allclose(found[2].actions[:, 1], buffers[2].actions["b"] / 2, rtol=1e-5)
    bounds = [{"low": [0.0], "high": [4.0]}, {"low": [-2.0, -2.0], "high": [2.0, 2.0]}]
    theirs = EnvSpec("toy", agents, "continuous", 5, 0, {"game": "toy", "actions": bounds})
    found = _episodes(import_dataset("minari", tmp_path / "set", "same", tmp_path, theirs))
    np.testing.assert_allclose(found[2].actions[:, 0, 0], buffers[2].actions["a"][:, 0] / 2 - 1, rtol=1e-5, atol=1e-6)


def test_a_minari_box_with_nothing_to_choose_is_refused() -> None:
    from gymnasium.spaces import Box

    seen, point = Box(-9, 9, (3,)), Box(np.float32([0, 2]), np.float32([4, 2]))
    with pytest.raises(UserError, match="a dimension of an agent's action Box has equal bounds"):
        minari_source._check_spaces(Path("mine"), [seen, seen], [Box(-1, 1, (2,)), point])
