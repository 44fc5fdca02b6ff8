"""Datasets that build themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.behavior.sources import Random, Snapshots
from data_modules.collect import CollectedDataset
from data_modules.episodes import EpisodeDataModule
from data_modules.storage.manifest import read_manifest
from dof_lightning.batch import Window
from dof_lightning.config import compose as configuration
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.spec import check_compatible, fingerprint


def dataset(root: Path, quality: str = "medium", **changes: Any) -> CollectedDataset:
    behavior = Random() if quality == "random" else Snapshots(quality)  # type: ignore[arg-type]
    settings = {"name": "mpe_spread_medium", "environment": ParticleEnv(), "behavior": behavior, "episodes": 60}
    return CollectedDataset(**(settings | {"seed": 0, "discount": 0.99, "root": str(root)} | changes))


def test_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again = (read_manifest(dataset(tmp_path / name).ensure(progress=False)) for name in ("first", "again"))
    assert [shard.sha256 for shard in first.shards] == [shard.sha256 for shard in again.shards]
    other = read_manifest(dataset(tmp_path / "first", seed=1).ensure(progress=False))
    assert other.spec.fingerprint != first.spec.fingerprint
    assert other.shards[0].sha256 != first.shards[0].sha256


def test_whatever_changes_the_data_changes_the_folder(tmp_path: Path) -> None:
    paths = [
        dataset(tmp_path).path,
        dataset(tmp_path, seed=1).path,
        dataset(tmp_path, episodes=61).path,
        dataset(tmp_path, quality="expert").path,
        dataset(tmp_path, discount=0.9).path,
    ]
    assert len(set(paths)) == len(paths)
    assert dataset(tmp_path).path == paths[0]


def test_built_once(tmp_path: Path) -> None:
    ours = dataset(tmp_path)
    assert not ours.exists()
    path = ours.ensure(progress=False)
    assert ours.exists()
    before = (path / "dataset.json").stat().st_mtime_ns
    assert ours.ensure(progress=False) == path
    assert (path / "dataset.json").stat().st_mtime_ns == before


def test_collected_data_fit_their_environment(tmp_path: Path) -> None:
    manifest = read_manifest(dataset(tmp_path).ensure(progress=False))
    check_compatible(manifest.spec, ParticleEnv(task="spread").spec)
    assert manifest.n_terminated == 0
    assert manifest.n_steps == 60 * 25
    with pytest.raises(UserError, match="env="):
        check_compatible(manifest.spec, ParticleEnv(task="tag", prey="still").spec)


def test_transitions_obey_the_physics(tmp_path: Path) -> None:
    """Stored rows are consecutive: position' = position + 0.1 velocity' in the particle world."""
    path = dataset(tmp_path).ensure(progress=False)
    module = EpisodeDataModule(path, Window(0, 1), global_batch_size=64, seed=0)
    module.setup("fit")
    batch = next(module.heldout_batches())
    now, following = batch.observations[:, :, 0], batch.observations[:, :, 1]
    np.testing.assert_allclose(following[..., 2:4], now[..., 2:4] + 0.1 * following[..., :2], atol=1e-5)
    assert not np.allclose(now, following)


def test_qualities_are_ordered(tmp_path: Path) -> None:
    qualities = ("random", "medium_replay", "medium", "expert")
    returns = [
        read_manifest(dataset(tmp_path, quality=q, episodes=400).ensure(progress=False)).behavior["return_mean"]
        for q in qualities
    ]
    assert returns == sorted(returns)
    assert returns[-1] > 500
    assert 140 < returns[0] < 180


def test_medium_replay_holds_every_rung_of_the_ladder(tmp_path: Path) -> None:
    ours = dataset(tmp_path, quality="medium_replay")
    snapshots = ours.recipe["behavior"]["snapshots"]
    assert snapshots[-1] == "medium"
    assert len(snapshots) >= 5
    assert "expert" not in snapshots
    assert len(ours.behavior.policies(ours.environment.spec)) == len(snapshots)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="episodes=0"):
        dataset(tmp_path, episodes=0)


@pytest.mark.parametrize(
    ("experiment", "recipe"),
    [
        ("mpe_spread_expert", "b8f255c2b8542179"),
        ("mpe_spread_medium", "b3c376a362be28a9"),
        ("mpe_spread_medium_replay", "51353708f7d72b1a"),
        ("mpe_spread_random", "601104b1ce9aac35"),
        ("mpe_spread_experts", "52e4742d5ec763be"),
        ("mpe_spread_occluded", "5a907215c44939c5"),
        ("mpe_spread_heterogeneous", "15588689f3893149"),
        ("mpe_spread_unequal", "94d0caf791cf717e"),
    ],
)
def test_recipes_of_published_numbers_stay_what_they_were(experiment: str, recipe: str) -> None:
    source = configuration.build(configuration.compose([f"experiment={experiment}"]).data.source)
    assert fingerprint(source.recipe) == recipe
