"""Merging undoes cutting, and the parts lie where they should."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_modules.storage.arrays import EpisodeRows
from data_modules.storage.manifest import DatasetManifest, read_episodes, read_manifest
from data_modules.tools import derive
from data_modules.tools.derive import EpisodeIndex, merge, read_index, subsample
from data_modules.tools.summary import plot
from data_modules.tools.verify import verify_dataset
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes


def episodes_of(path: Path) -> dict[int, EpisodeRows]:
    blocks = list(read_episodes(read_manifest(path)))
    return {int(rows.episode_id[i]): rows.select(np.array([i])) for rows in blocks for i in range(rows.n_episodes)}


def assert_same_episodes(one: dict[int, EpisodeRows], other: dict[int, EpisodeRows]) -> None:
    assert one.keys() == other.keys()
    for key, rows in one.items():
        for name, array in rows.arrays().items():
            np.testing.assert_array_equal(array, other[key].arrays()[name])


@pytest.fixture
def whole(tmp_path: Path) -> DatasetManifest:
    return build(tmp_path / "whole", make_episodes(60), behavior={"name": "noise", "win_rate": 0.5})


def test_the_halves_of_a_dataset_merge_into_the_dataset(tmp_path: Path, whole: DatasetManifest) -> None:
    low = subsample(whole.location, tmp_path, "low", quantiles=[0.0, 0.3])
    high = subsample(whole.location, tmp_path, "high", quantiles=[0.3, 1.0])
    returns = [read_index(read_manifest(path)).returns for path in (low, high)]
    assert len(returns[0]) == 18
    assert returns[0].max() <= returns[1].min()
    merged = merge([str(low), str(high)], tmp_path, "merged")
    verify_dataset(merged, progress=False)
    assert_same_episodes(episodes_of(Path(whole.location)), episodes_of(merged))
    assert read_manifest(merged).behavior["return_mean"] == pytest.approx(whole.behavior["return_mean"])


def test_some_episodes_at_random_are_a_function_of_the_seed(tmp_path: Path, whole: DatasetManifest) -> None:
    ids = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = subsample(whole.location, tmp_path, name, quantiles=[0.5, 1.0], episodes=10, seed=seed)
        ids[name] = set(read_index(read_manifest(path)).episode_id.tolist())
    assert ids["a"] == ids["b"] != ids["c"]
    assert len(ids["a"]) == 10
    assert "win_rate" not in read_manifest(tmp_path / "a").behavior, "what held for all episodes"


def test_a_part_of_older_data_does_not_promise_a_state_that_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = build(tmp_path / "bare", make_episodes(10, optional=False))
    promising = replace(bare.spec.environment, state_dim=5)
    older = replace(bare, spec=replace(bare.spec, environment=promising))
    monkeypatch.setattr(derive, "read_manifest", lambda path, *_: older)
    part = read_manifest(subsample(bare.location, tmp_path, "part", episodes=5))
    assert part.spec.environment.state_dim == 0


def test_parts_with_the_same_ids_get_new_ones(tmp_path: Path, whole: DatasetManifest) -> None:
    other = build(tmp_path / "other", make_episodes(40, seed=1), recipe={"data": "other"})
    merged = merge([whole.location, other.location], tmp_path, "merged")
    found = episodes_of(merged)
    assert len(found) == read_manifest(merged).n_episodes == 100
    verify_dataset(merged, progress=False)
    first = {key: rows for key, rows in found.items() if key < 60}
    assert_same_episodes(episodes_of(Path(whole.location)), first)


def test_other_worlds_and_arrays_are_refused(tmp_path: Path, whole: DatasetManifest) -> None:
    elsewhere = build(tmp_path / "discrete", make_episodes(20, discrete=True, optional=False), discrete=True)
    with pytest.raises(UserError, match="collected in"):
        merge([whole.location, elsewhere.location], tmp_path, "merged")
    fewer = build(tmp_path / "fewer", make_episodes(20, optional=False), recipe={"data": "fewer"})
    with pytest.raises(UserError, match="same arrays"):
        merge([whole.location, fewer.location], tmp_path, "merged")
    with pytest.raises(UserError, match="named twice"):
        merge([whole.location, whole.location], tmp_path, "merged")
    with pytest.raises(UserError, match="fewer than two"):
        merge([whole.location], tmp_path, "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"quantiles": [0.5]}, "two numbers"),
        ({"quantiles": [0.9, 0.1]}, "lowest < highest"),
        ({"quantiles": [0.5, 1.0], "episodes": 31}, "30 of 60"),
        ({"episodes": 0}, "requested are 0"),
    ],
)
def test_ranges_that_are_none_are_refused(
    tmp_path: Path, whole: DatasetManifest, options: dict, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        subsample(whole.location, tmp_path, "part", **options)
    assert not (tmp_path / "part").exists()


def test_another_cut_of_the_same_name_is_refused(tmp_path: Path, whole: DatasetManifest) -> None:
    subsample(whole.location, tmp_path, "part", quantiles=[0.5, 1.0])
    with pytest.raises(UserError, match="another dataset"):
        subsample(whole.location, tmp_path, "part", quantiles=[0.0, 0.5])


def test_episodes_are_not_merged_with_themselves(tmp_path: Path, whole: DatasetManifest) -> None:
    parts = [
        str(subsample(whole.location, tmp_path, name, quantiles=range_))
        for name, range_ in (("low", [0.0, 0.6]), ("high", [0.4, 1.0]))
    ]
    for datasets in (parts, [whole.location, parts[0]]):
        with pytest.raises(UserError, match="shares episodes"):
            merge(datasets, tmp_path, "merged")


def test_equal_episodes_are_found_whatever_the_recipes_tell(tmp_path: Path, whole: DatasetManifest) -> None:
    """A cut of a cut, the first episodes of a longer dataset, and a cut of a merge, whose ids are new."""
    low = subsample(whole.location, tmp_path, "low", quantiles=[0.0, 0.6])
    lower = subsample(str(low), tmp_path, "lower", quantiles=[0.0, 0.5])
    first = build(
        tmp_path / "first",
        make_episodes(60).flatten().select(np.arange(20)).padded(),
        recipe={"data": "of another length"},
    )
    other = build(tmp_path / "other", make_episodes(40, seed=1), recipe={"data": "other"})
    merged = merge([whole.location, other.location], tmp_path, "merged")
    upper = subsample(str(merged), tmp_path, "upper", quantiles=[0.5, 1.0])
    for again in (str(lower), first.location, str(upper)):
        with pytest.raises(UserError, match=r"shares \d+ of its \d+ episodes"):
            merge([whole.location, again], tmp_path, "twice")


def test_datasets_that_repeat_themselves_may_be_merged(tmp_path: Path) -> None:
    """As those of games of one step, in which independent episodes are often equal."""
    parts = [make_episodes(20).flatten() for _ in range(2)]
    for number, part in enumerate(parts):
        half = part.select(np.repeat(np.arange(10), 2))
        half.episode_id[:] = np.arange(20)
        parts[number] = half
    paths = [build(tmp_path / f"{n}", part.padded(), recipe={"data": n}).location for n, part in enumerate(parts)]
    assert read_manifest(merge(paths, tmp_path, "merged")).n_episodes == 40


def test_the_seed_of_a_merge_is_part_of_what_it_is(tmp_path: Path, whole: DatasetManifest) -> None:
    other = build(tmp_path / "other", make_episodes(40, seed=1), recipe={"data": "other"})
    merge([whole.location, other.location], tmp_path, "merged", seed=0)
    with pytest.raises(UserError, match="another dataset"):
        merge([whole.location, other.location], tmp_path, "merged", seed=1)


@pytest.mark.parametrize("spread", [0.0, 1e-7])
def test_episodes_of_one_return_have_a_card(tmp_path: Path, spread: float) -> None:
    episodes = make_episodes(50)
    episodes.rewards[:] = 0.0
    episodes.rewards[:, :, 0] = 2.0
    episodes.rewards[::2, :, 0] += np.float32(spread)
    build(tmp_path / "same", episodes)
    subsample(str(tmp_path / "same"), tmp_path, "part", quantiles=[0.5, 1.0])
    plot(read_manifest(tmp_path / "part"), tmp_path / "part.png")


@pytest.mark.parametrize("change", ["a flipped bit", "other episodes", "other episodes, listed"])
def test_what_changes_between_two_looks_at_it_is_not_copied(
    tmp_path: Path, whole: DatasetManifest, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Episodes are chosen by a first look at the data and copied by a second one."""
    other = build(tmp_path / "other", make_episodes(60, seed=1), recipe={"data": "other"})
    source, shard = Path(whole.location), whole.shards[-1].name

    def looked_at(manifest: DatasetManifest) -> EpisodeIndex:
        index = read_index(manifest)
        if manifest.location != whole.location:
            return index
        content = bytearray((source / shard).read_bytes())
        content[content.index(b"rewards.npy") + 1024] ^= 1  # the lowest bit of a reward
        (source / shard).write_bytes(content)
        for name in (shard, "dataset.json") if change.endswith("listed") else (shard,) * change.startswith("other"):
            (source / name).write_bytes((Path(other.location) / name).read_bytes())
        return index

    monkeypatch.setattr(derive, "read_index", looked_at)
    with pytest.raises(UserError, match=rf"{shard}: .*; the file is damaged"):
        subsample(whole.location, tmp_path, "part")
    shutil.rmtree(source)
    build(source, make_episodes(60), behavior={"name": "noise", "win_rate": 0.5})
    with pytest.raises(UserError, match=rf"{shard}: .*; the file is damaged"):
        merge([whole.location, other.location], tmp_path, "part")
    assert not (tmp_path / "part").exists()


def test_a_part_of_data_that_have_changed_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    for seed, name in enumerate(("mine", "corrected")):
        build(tmp_path / name, make_episodes(60, seed=seed), made_by_recipe=True)  # one recipe, as of version 0.1.0
    first = subsample(str(tmp_path / "mine"), tmp_path, "low", quantiles=[0.0, 0.5])
    assert subsample(str(tmp_path / "mine"), tmp_path, "low", quantiles=[0.0, 0.5]) == first
    with pytest.raises(UserError, match=r"low contains other episodes than these.*delete that folder"):
        subsample(str(tmp_path / "corrected"), tmp_path, "low", quantiles=[0.0, 0.5])
