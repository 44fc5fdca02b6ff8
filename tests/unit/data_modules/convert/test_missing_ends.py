"""Transitions that were not recorded are none: episodes without a last observation, agents that leave, cut episodes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules.convert.exporting import export_dataset
from data_modules.convert.flat import CUT, ENDED, Cuts
from data_modules.convert.importing import import_dataset
from data_modules.loading.windows import gather_windows, load_table
from data_modules.storage.manifest import read_manifest, write_manifest
from data_modules.tools.verify import verify_dataset
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.errors import UserError
from tests.fixtures.foreign_files import HORIZON, timeline, write_madiff, write_omar, write_plain_vault

LENGTHS = [3, 6, 2, 6]  # the last one was cut by its time limit, the others ended


def rows_of(path: Path) -> EpisodeBatch:
    """Every step of every episode with the row after it, in the order of ids and time."""
    table = load_table(read_manifest(path))
    places = torch.repeat_interleave(torch.argsort(table.episode_id), table.length[torch.argsort(table.episode_id)])
    t = torch.cat([torch.arange(int(n)) for n in table.length[torch.argsort(table.episode_id)]])
    return gather_windows(table, places, t, Window(0, 1))


@pytest.fixture
def imported(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    arrays = timeline(LENGTHS)
    if request.param == "vault":
        source = write_plain_vault(tmp_path / "vault", arrays)
    else:
        source = tmp_path / "madiff"
        write_madiff(source, arrays, LENGTHS)
    return import_dataset(request.param, source, "mine", tmp_path)


@pytest.mark.parametrize("imported", ["vault", "madiff"], indirect=True)
def test_a_cut_episodes_last_step_is_no_transition(imported: Path) -> None:
    batch = rows_of(imported)
    last = np.cumsum(LENGTHS) - 1
    counts = batch.transition_mask[:, 0, 0].numpy()
    ended = batch.terminated[:, 0].numpy()
    assert counts.sum() == sum(LENGTHS) - (~ended[last]).sum()
    assert not counts[last][~ended[last]].any(), "nobody saw what came after the time limit"
    assert counts[last][ended[last]].all(), "a real end asks nothing of the next row"
    assert 0 < ended.sum() < len(LENGTHS)
    assert not batch.valid[last, 1].any(), "the repeated row is padding"
    assert batch.valid[np.setdiff1d(np.arange(sum(LENGTHS)), last)].all()
    np.testing.assert_array_equal(batch.rewards[:, 0, 0], timeline(LENGTHS)["rewards"][:, 0])


def marks(lengths: list[list[int]], once: bool) -> dict[str, np.ndarray]:
    """Battles in which every agent lasts so long, marked as terminal once or from then on."""
    longest = [max(each) for each in lengths]
    arrays = timeline(longest)
    arrays["terminals"][:], arrays["truncations"][:] = False, False
    for start, each in zip(np.cumsum(longest) - longest, lengths, strict=True):
        for agent, length in enumerate(each):
            arrays["terminals"][start + length - 1 : start + (length if once else max(each)), agent] = True
    return arrays


@pytest.mark.parametrize("once", [True, False])
def test_an_agent_that_leaves_ends_no_episode_and_is_no_longer_alive(tmp_path: Path, once: bool) -> None:
    lengths = [[8, 3], [2, 8], [8, 8]] * 13 + [[5, 8]]
    arrays = marks(lengths, once)
    path = import_dataset("vault", write_plain_vault(tmp_path / "vault", arrays), "mine", tmp_path)
    manifest = read_manifest(path)
    assert (manifest.n_episodes, manifest.longest, manifest.n_terminated) == (40, 8, 40)
    batch = rows_of(path)
    time = np.tile(np.arange(8), 40)
    for agent in range(2):
        lasts = np.repeat([each[agent] for each in lengths], 8)
        np.testing.assert_array_equal(batch.alive[:, agent, 0], time < lasts)
        np.testing.assert_array_equal(batch.transition_mask[:, agent, 0], time < lasts)


def test_imports_of_earlier_versions_are_told_apart(tmp_path: Path) -> None:
    path = import_dataset("vault", write_plain_vault(tmp_path / "vault", timeline(LENGTHS)), "mine", tmp_path)
    assert not any("0.1.0" in warning for warning in verify_dataset(path, progress=False).warnings)
    manifest = read_manifest(path)
    recipe = dict(manifest.spec.recipe)
    recipe["imported"] = {key: value for key, value in recipe["imported"].items() if key != "ends"}
    write_manifest(path, replace(manifest, spec=replace(manifest.spec, recipe=recipe)))
    assert any("import it again" in warning for warning in verify_dataset(path, progress=False).warnings)
    with pytest.raises(UserError, match="another dataset"):
        import_dataset("vault", tmp_path / "vault", "mine", tmp_path)


def test_everybody_always_there_needs_no_alive(tmp_path: Path) -> None:
    path = import_dataset("vault", write_plain_vault(tmp_path / "vault", timeline(LENGTHS)), "mine", tmp_path)
    assert "alive" not in read_manifest(path).members


def test_where_episodes_end_does_not_depend_on_how_much_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    said = np.where(rng.random((200, 3)) < 0.1, rng.integers(CUT, ENDED + 1, (200, 3)), 0).astype(np.int8)
    whole = Cuts.where_all_are_over(lambda first, last: said[first:last], 200)
    monkeypatch.setattr("data_modules.convert.flat._ROWS_AT_ONCE", 7)
    parts = Cuts.where_all_are_over(lambda first, last: said[first:last], 200)
    assert whole is not None
    assert parts is not None
    for name in ("start", "length", "terminated"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    expected, start = [], 0  # row by row, as the words say
    over = np.zeros((3, 2), dtype=bool)
    for row in range(200):
        new = (said[row] > 0) & ~over[:, 0]
        over[new] = np.stack([np.ones(3, dtype=bool), said[row] == ENDED], axis=1)[new]
        if over[:, 0].all():
            expected.append((start, row + 1 - start, bool(over[:, 1].all())))
            start, over = row + 1, np.zeros((3, 2), dtype=bool)
    expected += [(start, 200 - start, False)] * (start < 200)
    assert list(zip(whole.start.tolist(), whole.length.tolist(), whole.terminated.tolist(), strict=True)) == expected


def test_omars_format_refuses_to_make_up_a_last_observation(tmp_path: Path) -> None:
    arrays = timeline([4] * 50)
    arrays["actions"] = np.random.default_rng(0).uniform(-1, 1, (200, 2, 3)).astype(np.float32)
    source = write_plain_vault(tmp_path / "vault", {k: v for k, v in arrays.items() if k != "legal"})
    path = import_dataset("vault", source, "mine", tmp_path)
    with pytest.raises(UserError, match=r"not recorded; use format=vault"):
        export_dataset(path, "omar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("horizon", [1, 5])
def test_a_horizon_that_cuts_longer_episodes_is_refused(tmp_path: Path, horizon: int) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 4)
    with pytest.raises(UserError, match=r"next_obs_0\.npy, row .*episodes are longer than that.*horizon="):
        import_dataset("omar", tmp_path / "omar", "mine", tmp_path, options={"horizon": horizon})
    import_dataset("omar", tmp_path / "omar", "mine", tmp_path, options={"horizon": HORIZON})


def test_a_world_in_which_nothing_moves_says_nothing_about_its_horizon(tmp_path: Path) -> None:
    write_omar(tmp_path / "omar" / "seed_0_data", 4)
    for file in (tmp_path / "omar" / "seed_0_data").glob("*obs_*.npy"):
        np.save(file, np.ones_like(np.load(file)))
    import_dataset("omar", tmp_path / "omar", "mine", tmp_path, options={"horizon": 1})


def test_madiffs_missing_time_limits_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_madiff(tmp_path / "madiff", timeline(LENGTHS), LENGTHS)
    import_dataset("madiff", tmp_path / "madiff", "mine", tmp_path)
    assert "the 2 of 4 with the most steps, 6, count as truncated" in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["vault", "madiff"])
def test_more_agents_than_observation_columns(tmp_path: Path, format_: str) -> None:
    arrays = timeline([6] * 20, n_agents=30)
    source = tmp_path / format_
    if format_ == "vault":
        write_plain_vault(source, arrays)
    else:
        write_madiff(source, arrays, [6] * 20, identities=False)
    manifest = read_manifest(import_dataset(format_, source, "mine", tmp_path))
    assert (manifest.spec.n_agents, manifest.spec.observation_dim) == (30, 5)
