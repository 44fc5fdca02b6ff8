"""Every dataset carries its card, and the card says what the manifest says."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.storage.card import to_markdown
from data_modules.storage.manifest import read_manifest
from data_modules.tools.summary import plot, summarize
from data_modules.tools.verify import verify_dataset
from tests.fixtures.dataset_files import build, make_episodes


def test_the_card_lies_beside_the_shards_and_is_a_function_of_the_data(tmp_path: Path) -> None:
    manifest = build(tmp_path / "a" / "toy", make_episodes(50))
    build(tmp_path / "b" / "toy", make_episodes(50))
    card = (tmp_path / "a" / "toy" / "README.md").read_text()
    assert card == (tmp_path / "b" / "toy" / "README.md").read_text() == to_markdown(manifest)
    for fact in (manifest.spec.fingerprint, "toy_dataset", "50", f"{manifest.behavior['return_mean']:.2f}"):
        assert fact in card
    assert str(tmp_path) not in card


def test_a_dataset_without_a_card_is_a_dataset(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(50))
    (tmp_path / "toy" / "README.md").unlink()
    assert verify_dataset(tmp_path / "toy").n_shards == len(read_manifest(tmp_path / "toy").shards)


def test_tables_survive_names_with_bars(tmp_path: Path) -> None:
    manifest = build(tmp_path / "toy", make_episodes(20), behavior={"name": "a|b"})
    assert "a\\|b" in to_markdown(manifest)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_summary_and_the_picture(tmp_path: Path, discrete: bool) -> None:
    episodes = make_episodes(60, discrete=discrete, optional=False)
    manifest = build(tmp_path / "toy", episodes, discrete=discrete)
    numbers = summarize(manifest)
    returns = (episodes.rewards * (np.arange(6) < episodes.length[:, None])[:, None]).sum(2).mean(1)
    assert numbers["return_mean"] == pytest.approx(returns.mean(), rel=1e-5)
    assert numbers["return_percentiles"]["100"] == pytest.approx(returns.max(), rel=1e-5)
    assert numbers["mean_length"] == pytest.approx(episodes.length.mean())
    assert (numbers["actions"] is None) == discrete
    assert len(numbers["observations"]["small"]["mean"]) == 3
    plot(manifest, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_illegal_actions_are_told(tmp_path: Path) -> None:
    episodes = make_episodes(50, discrete=True)
    assert episodes.legal is not None
    episodes.legal[:] = True
    build(tmp_path / "good", episodes, discrete=True)
    assert not any("legal" in warning for warning in verify_dataset(tmp_path / "good").warnings)
    episodes.legal[3, 0, 0, episodes.actions[3, 0, 0]] = False
    episodes.legal[7, 1, episodes.length[7]] = False  # the last row: nobody acts in it
    build(tmp_path / "bad", episodes, discrete=True)
    assert any(warning.startswith("1 of ") for warning in verify_dataset(tmp_path / "bad").warnings)
