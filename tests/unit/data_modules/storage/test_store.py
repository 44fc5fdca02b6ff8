"""Datasets on disk: what is written comes back, the same bytes each time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.storage.arrays import EpisodeRows, Episodes, concatenate, returns_to_go
from data_modules.storage.contents import contents_of
from data_modules.storage.split import is_heldout
from data_modules.storage.store import Description, Layout, write_dataset
from data_modules.tools.verify import verify_dataset
from dof_lightning.digest import KEY as SEAL
from dof_lightning.errors import UserError
from dof_lightning.spec import fingerprint
from tests.fixtures.dataset_files import build, make_environment, make_episodes, rewrite
from tests.fixtures.shard_reading import assert_same, read_all, shard_bytes, sorted_by_id


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("optional", [False, True])
def test_what_is_written_comes_back(tmp_path: Path, discrete: bool, optional: bool) -> None:
    episodes = make_episodes(50, discrete=discrete, optional=optional)
    manifest = build(tmp_path / "toy", episodes, discrete=discrete)
    rows = read_all(tmp_path / "toy")
    assert_same(sorted_by_id(rows), episodes.flatten())
    assert (manifest.n_episodes, manifest.n_steps) == (50, int(episodes.length.sum()))
    assert len(manifest.shards) == 3
    assert manifest.spec.environment == replace(make_environment(discrete), state_dim=5 if optional else 0)
    assert manifest.spec.recipe == {"data": "toy", "contents": contents_of(manifest)}
    assert manifest.spec.fingerprint == fingerprint(manifest.spec.recipe)
    verify_dataset(tmp_path / "toy", progress=False)


def test_padding_and_flattening_are_inverse() -> None:
    rows = make_episodes(20).flatten()
    padded = rows.padded()
    assert_same(padded.flatten(), rows)
    for e, length in enumerate(padded.length):
        assert np.all(padded.observations[e, :, length:] == padded.observations[e, :, length, None])
        assert np.all(padded.rewards[e, :, length:] == 0)


def test_selecting_episodes_equals_selecting_them_padded() -> None:
    episodes, chosen = make_episodes(20), np.array([7, 3, 19, 3])
    arrays = {name: array[chosen] for name, array in episodes.arrays().items()}
    assert_same(episodes.flatten().select(chosen), Episodes(**arrays).flatten())


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    episodes = make_episodes(50)
    build(tmp_path / "once", episodes)
    build(tmp_path / "again", episodes)
    assert shard_bytes(tmp_path / "once") == shard_bytes(tmp_path / "again")
    documents = [(tmp_path / name / "dataset.json").read_bytes() for name in ("once", "again")]
    assert documents[0] == documents[1]


def test_bytes_do_not_depend_on_how_blocks_are_cut(tmp_path: Path) -> None:
    rows = make_episodes(50).flatten()
    parts = [rows.select(np.arange(a, b)).padded() for a, b in ((0, 9), (9, 30), (30, 50))]
    build(tmp_path / "whole", rows.padded())
    build(tmp_path / "cut", *parts)
    assert shard_bytes(tmp_path / "whole") == shard_bytes(tmp_path / "cut")


def test_episodes_are_permuted_by_seed(tmp_path: Path) -> None:
    episodes = make_episodes(200)
    orders = []
    for seed in (0, 1):
        build(tmp_path / str(seed), episodes, seed=seed)
        orders.append(read_all(tmp_path / str(seed)).episode_id)
    assert not np.array_equal(orders[0], orders[1])
    assert abs(np.corrcoef(orders[0], np.arange(200))[0, 1]) < 0.3
    assert set(orders[0]) == set(range(200))


def test_a_stream_larger_than_the_buffer_keeps_every_episode(tmp_path: Path) -> None:
    blocks = [make_episodes(20, seed=i, first_id=20 * i) for i in range(5)]
    build(tmp_path / "toy", *blocks, buffer_bytes=1)
    rows = concatenate([block.flatten() for block in blocks])
    assert_same(sorted_by_id(read_all(tmp_path / "toy")), rows)


@pytest.mark.parametrize("buffer_bytes", [1, 1 << 30])
def test_statistics_are_those_of_training_episodes(tmp_path: Path, buffer_bytes: int) -> None:
    blocks = [make_episodes(100, seed=i, first_id=100 * i) for i in range(3)]
    statistics = build(tmp_path / "toy", *blocks, buffer_bytes=buffer_bytes).spec.statistics
    rows = concatenate([block.flatten() for block in blocks])
    training = rows.select(np.flatnonzero(~is_heldout(torch.from_numpy(rows.episode_id)).numpy()))
    assert training.n_episodes < rows.n_episodes
    for measured, data in ((statistics.observations, training.observations), (statistics.actions, training.actions)):
        data = data.astype(np.float64)
        np.testing.assert_allclose(measured.mean, data.mean(0), atol=1e-6)
        np.testing.assert_allclose(measured.std, data.std(0), atol=1e-6)
        np.testing.assert_array_equal(measured.minimum, data.min(0).astype(np.float32))
        np.testing.assert_array_equal(measured.maximum, data.max(0).astype(np.float32))
        np.testing.assert_allclose(measured.knots, np.quantile(data, np.linspace(0, 1, 1001), axis=0), atol=1e-5)
    padded = training.padded()
    steps = np.arange(padded.rewards.shape[2])
    returns = padded.rewards.sum(2).mean(1)
    discounted = (padded.rewards * 0.9**steps).sum(2).mean(1)
    assert statistics.return_mean == pytest.approx(returns.mean(), abs=1e-5)
    assert statistics.return_std == pytest.approx(returns.std(), abs=1e-5)
    expected = np.quantile(discounted, np.linspace(0, 1, 1001))
    np.testing.assert_allclose(statistics.discounted_return_knots, expected, atol=1e-5)


def test_behaviour_returns_are_those_of_all_episodes(tmp_path: Path) -> None:
    episodes = make_episodes(80)
    manifest = build(tmp_path / "toy", episodes)
    returns = episodes.flatten().padded().rewards.sum(2).mean(1)
    assert manifest.behavior["name"] == "noise"
    assert manifest.behavior["return_mean"] == pytest.approx(returns.mean(), abs=1e-5)
    assert manifest.return_knots[0] == pytest.approx(returns.min(), abs=1e-5)


def test_returns_to_go_by_hand() -> None:
    rewards = np.array([[1.0], [2.0], [4.0], [8.0]], dtype=np.float32)
    result = returns_to_go(rewards, np.array([3, 1]), discount=0.5)
    np.testing.assert_allclose(result[:, 0], [1 + 1 + 1, 2 + 2, 4, 8])


def test_a_wrong_number_of_episodes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="instead of 11"):
        build(tmp_path / "toy", make_episodes(10), n_episodes=11)
    assert not (tmp_path / "toy").exists()


def test_no_episodes_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="n_episodes=0: a dataset has at least one episode"):
        build(tmp_path / "toy", make_episodes(10), n_episodes=0)


def test_data_of_ones_own_are_identified_by_their_contents(tmp_path: Path) -> None:
    """However they are cut, padded, ordered and laid out; other rewards or another discount are other data."""
    rows = make_episodes(50).flatten()
    first = build(tmp_path / "first", rows.padded())
    cut = [rows.select(np.arange(a, b)).padded() for a, b in ((20, 50), (0, 20))]
    named = replace(make_environment(), name="another", reference=None)
    again = build(tmp_path / "again", *cut, episodes_per_sample=3, seed=1, environment=named)
    assert again.spec.fingerprint == first.spec.fingerprint == build(tmp_path / "flat", rows).spec.fingerprint
    assert again.spec.shards_sha256 != first.spec.shards_sha256
    changed = make_episodes(50)
    changed.rewards[7, 0, 0] += 1
    others = [
        build(tmp_path / "rewards", changed),
        build(tmp_path / "discount", rows, discount=0.5),
        build(tmp_path / "fewer", rows.slice(0, 49)),
        build(tmp_path / "plain", make_episodes(50, optional=False)),
    ]
    assert len({first.spec.fingerprint, *(other.spec.fingerprint for other in others)}) == 5


@pytest.mark.parametrize("written_by_0_1_0", [False, True])
def test_a_rebuild_that_would_differ_says_so(tmp_path: Path, written_by_0_1_0: bool) -> None:
    """The case of issue 16: the same script with corrected rewards ended well and kept the old data."""
    path, corrected = tmp_path / "toy", make_episodes(50)
    corrected.rewards[3, :, 0] = 0.5
    if written_by_0_1_0:
        build(path, make_episodes(50), made_by_recipe=True)  # as version 0.1.0 did for all
        rewrite(path, lambda document: document.pop(SEAL))
    else:
        build(path, make_episodes(50))
    kept = shard_bytes(path)
    assert build(path, make_episodes(50)).n_episodes == 50
    with pytest.raises(
        UserError, match=r"toy contains other episodes than these.* \(contents .*\); delete that folder"
    ):
        build(path, corrected)
    assert shard_bytes(path) == kept


IMPORTED = {"imported": {"format": "toy", "files": "0" * 64}}


def write_from(path: Path, episodes: Episodes, recipe: dict[str, Any], asked: list[int], die_at: int = 999) -> None:
    """Episodes one a block, the first n left out as a function that resumes is asked; killed before `die_at`."""
    rows = episodes.flatten()

    def blocks(first: int) -> Iterator[EpisodeRows]:
        asked.append(first)
        for index in range(first, rows.n_episodes):
            if index == die_at:
                raise KeyboardInterrupt
            yield rows.slice(index, index + 1)

    description = Description(name="toy", environment=make_environment(), recipe=recipe, behavior={}, discount=0.9)
    layout = Layout(episodes_per_sample=8, buffer_bytes=1)
    write_dataset(path, description, blocks=blocks, n_episodes=rows.n_episodes, seed=0, layout=layout)


@pytest.mark.parametrize(("recipe", "resumes"), [({"data": "toy"}, False), (IMPORTED, True)])
def test_a_killed_writing_never_mixes_old_and_corrected_episodes(
    tmp_path: Path, recipe: dict[str, Any], resumes: bool
) -> None:
    """Rewards corrected after a kill stood beside the old ones where nothing in the recipe tells them apart."""
    path, first, asked = tmp_path / "toy", make_episodes(20), []
    corrected = replace(first, rewards=first.rewards if resumes else first.rewards + 1)
    with pytest.raises(KeyboardInterrupt):
        write_from(path, first, recipe, asked, die_at=12)
    write_from(path, corrected, recipe, asked)
    assert (asked[0], asked[1] > 0) == (0, resumes)
    assert_same(sorted_by_id(read_all(path)), corrected.flatten())
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == ["toy"]


@pytest.mark.parametrize(("recipe", "times"), [({"data": "toy"}, 2), ({"imported": "toy"}, 2), (IMPORTED, 1)])
def test_files_whose_digest_is_in_the_recipe_are_not_read_again(
    tmp_path: Path, recipe: dict[str, Any], times: int
) -> None:
    asked: list[int] = []
    for _ in range(2):
        write_from(tmp_path / "toy", make_episodes(20), recipe, asked)
    assert asked == [0] * times


def test_what_a_recipe_makes_is_not_made_again(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(50), made_by_recipe=True)
    untouched = make_episodes(50, seed=1)
    assert build(tmp_path / "toy", untouched, made_by_recipe=True).spec.recipe == {"data": "toy"}


def test_files_written_anew_under_the_same_recipe_are_other_files(tmp_path: Path) -> None:
    first, again, other = (
        build(tmp_path / str(number), make_episodes(50, seed=seed), made_by_recipe=True).spec
        for number, seed in enumerate((0, 0, 1))
    )
    assert first.shards_sha256 == again.shards_sha256
    assert first.shards_sha256 != other.shards_sha256
    assert first.fingerprint == other.fingerprint
