"""Actions arrive in our units, or are refused with both ranges: numbers that mean something else are never accepted."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.convert.exporting import export_dataset
from data_modules.convert.importing import import_dataset
from data_modules.storage.action_units import ActionUnits, units_of
from data_modules.storage.manifest import read_manifest
from data_modules.storage.store import Description, write_dataset
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec
from tests.fixtures.foreign_files import timeline, write_plain_vault
from tests.fixtures.shard_reading import read_all, sorted_by_id

AGENTS = (AgentSpec("a", 5, 2), AgentSpec("b", 5, 3))


def world(low: float, high: float) -> EnvSpec:
    """A PettingZoo world of two unlike agents, as far as its recipe goes."""
    said = [{"shape": [a.action_dim], "low": [low] * a.action_dim, "high": [high] * a.action_dim} for a in AGENTS]
    return EnvSpec("theirs", AGENTS, "continuous", 4, 7, {"family": "pettingzoo", "actions": said})


def plain_world() -> EnvSpec:
    return EnvSpec("ours", AGENTS, "continuous", 4, 7, {"game": "ours"})


def vault(folder: Path, low: float, high: float, extremes: bool = False) -> tuple[Path, np.ndarray]:
    """Recorded with actions in a range that a vault cannot say; with `extremes`, at its ends only."""
    arrays = timeline([4] * 60)
    actions = np.random.default_rng(1).uniform(low, high, (240, 2, 3)).astype(np.float32)
    if extremes:
        actions = np.where(actions < (low + high) / 2, low, high).astype(np.float32)
    actions[:, 0, 2] = 0.0  # padding
    arrays["actions"] = actions
    del arrays["legal"]
    return write_plain_vault(folder / "vault", arrays), actions


def stored(path: Path) -> np.ndarray:
    actions: np.ndarray = sorted_by_id(read_all(path)).actions
    return actions


def test_a_vault_in_the_packages_own_units_is_refused_until_they_are_said(tmp_path: Path) -> None:
    source, actions = vault(tmp_path, 0.0, 1.0)
    with pytest.raises(UserError, match=r"actions in \[.*, 0\.9.*\], env=theirs acts in \[0, 1\]; .*range=env"):
        import_dataset("vault", source, "mine", tmp_path, world(0.0, 1.0))
    assert not (tmp_path / "mine").exists()
    expected = 2 * actions - 1
    expected[:, 0, 2] = 0.0
    for name, said in (("env", "env"), ("numbers", [0, 1])):
        options = {"action_range": said}
        path = import_dataset("vault", source, name, tmp_path, world(0.0, 1.0), options)
        np.testing.assert_allclose(stored(path), expected, atol=1e-6)
    path = import_dataset("vault", source, "mapped", tmp_path, world(0.0, 1.0), {"action_range": [-1, 1]})
    np.testing.assert_array_equal(stored(path), actions)


def test_actions_at_the_ends_of_a_range_are_as_unclear_as_all_others(tmp_path: Path) -> None:
    source, _ = vault(tmp_path, 0.0, 1.0, extremes=True)
    with pytest.raises(UserError, match=r"holds actions in \[0, 1\], env=theirs acts in \[0, 1\]; .*range=env"):
        import_dataset("vault", source, "mine", tmp_path, world(0.0, 1.0))


def test_actions_that_can_only_be_ours_are_taken_for_ours(tmp_path: Path) -> None:
    source, actions = vault(tmp_path, -1.0, 1.0)
    for name, environment in (("theirs", world(0.0, 1.0)), ("plain", plain_world()), ("none", None)):
        path = import_dataset("vault", source, name, tmp_path, environment)
        np.testing.assert_array_equal(stored(path), actions)


def test_the_same_file_in_other_units_is_another_dataset(tmp_path: Path) -> None:
    source, _ = vault(tmp_path, 0.0, 1.0)
    made = [
        read_manifest(import_dataset("vault", source, f"mine{i}", tmp_path, None, options)).spec
        for i, options in enumerate(
            ({}, {"action_range": [-1, 1]}, {"action_range": [0, 1]}, {"action_range": [-2, 2]})
        )
    ]
    assert made[0].fingerprint == made[1].fingerprint
    assert len({spec.fingerprint for spec in made}) == 3
    assert units_of(made[3].environment).equals(ActionUnits.of(-2, 2)), "the recipe says what the numbers were"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ([0, 0.5], r"row \d+: action .* is not within \[0, 0\.5\]; specify .*action_range="),
        ([2, 1], "must be two numbers"),
        ("wide", "must be two numbers"),
        ("source", "declares no range"),
    ],
)
def test_ranges_that_cannot_be(tmp_path: Path, said: object, complaint: str) -> None:
    source, _ = vault(tmp_path, 0.0, 1.0)
    with pytest.raises(UserError, match=complaint):
        import_dataset("vault", source, "mine", tmp_path, world(0.0, 1.0), {"action_range": said})


def test_what_is_outside_is_told_with_the_key_that_mends_it(tmp_path: Path) -> None:
    source, actions = vault(tmp_path, -2.0, 2.0)
    with pytest.raises(UserError, match=r"is not within -1 to 1; .*action_range=\[<lowest>,<highest>\]"):
        import_dataset("vault", source, "mine", tmp_path)
    path = import_dataset("vault", source, "measured", tmp_path, None, {"action_range": "measured"})
    mine = stored(path)
    np.testing.assert_allclose(mine[:, 1].min(axis=0), -1, atol=1e-6)
    np.testing.assert_allclose(mine[:, 1].max(axis=0), 1, atol=1e-6)
    assert not mine[:, 0, 2].any(), "padding stays zero"
    low, high = actions[:, 1, 0].min(), actions[:, 1, 0].max()
    np.testing.assert_allclose(low + (mine[:, 1, 0] + 1) / 2 * (high - low), actions[:, 1, 0], atol=1e-5)


def test_choices_have_no_range(tmp_path: Path) -> None:
    source = write_plain_vault(tmp_path / "vault", timeline([4] * 60))
    with pytest.raises(UserError, match="discrete actions, without a range"):
        import_dataset("vault", source, "mine", tmp_path, None, {"action_range": [0, 1]})


def test_what_was_exported_comes_back_without_a_word(tmp_path: Path) -> None:
    source, _ = vault(tmp_path, 0.0, 1.0)
    mine = import_dataset("vault", source, "mine", tmp_path, world(0.0, 1.0), {"action_range": "env"})
    small = import_dataset("vault", source, "small", tmp_path, world(-4.0, 4.0), {"action_range": [-4, 4]})
    for path, environment in ((mine, world(0.0, 1.0)), (small, world(-4.0, 4.0))):
        export_dataset(path, "vault", tmp_path / f"{path.name}.vlt")
        again = import_dataset("vault", tmp_path / f"{path.name}.vlt", f"{path.name}_again", tmp_path, environment)
        np.testing.assert_array_equal(stored(again), stored(path))
        assert read_manifest(again).spec.environment == environment


def test_ones_own_episodes_are_written_in_their_own_units(tmp_path: Path) -> None:
    from tests.fixtures.dataset_files import make_environment, make_episodes

    episodes = make_episodes(60)
    ours = episodes.actions.copy()
    episodes.actions = ours * np.array([2.0, 3.0, 1.0], dtype=np.float32) + np.array([2, 0, 0], dtype=np.float32)
    episodes.actions *= make_environment().action_mask().numpy()[:, None]
    common = {"name": "toy", "environment": make_environment(), "recipe": {"data": "toy"}, "behavior": {}}
    told = {"blocks": [episodes], "n_episodes": 60, "seed": 0}
    with pytest.raises(UserError, match=r"actions: .* from -.* to .*action_range"):
        write_dataset(tmp_path / "toy", Description(**common), **told)
    description = Description(**common, action_range=([0, -3, -1], [4, 3, 1]))
    write_dataset(tmp_path / "toy", description, **told)
    expected = make_episodes(60)
    expected.actions = ours
    np.testing.assert_allclose(stored(tmp_path / "toy"), expected.flatten().actions, atol=1e-6)
    with pytest.raises(UserError, match="another dataset"):
        write_dataset(tmp_path / "toy", Description(**common, action_range=(-5, 5)), **told)
