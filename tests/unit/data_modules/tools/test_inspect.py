"""Dataset cards say what a dataset is; lists survive damaged ones."""

from pathlib import Path

import numpy as np
from rich.console import Console, RenderableType

from data_modules.storage.card import histogram
from data_modules.tools.inspect import describe, find_datasets, list_datasets
from tests.fixtures.dataset_files import build, make_episodes


def text(renderable: RenderableType) -> str:
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_card(tmp_path: Path) -> None:
    manifest = build(tmp_path / "toy", make_episodes(50))
    card = text(describe(tmp_path / "toy"))
    mean = manifest.behavior["return_mean"]
    facts = ["toy_dataset", manifest.spec.fingerprint, "noise", "small", "large", "50", f"{manifest.n_steps}"]
    for fact in [*facts, f"{mean:.2f}", f"normalised score {10 * mean:.1f}", f"{manifest.n_terminated} terminated"]:
        assert fact in card


def test_card_of_discrete_actions(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(50, discrete=True, optional=False), discrete=True)
    assert "discrete" in text(describe(tmp_path / "toy"))


def test_list_names_good_and_damaged_datasets(tmp_path: Path) -> None:
    good = build(tmp_path / "a", make_episodes(50))
    build(tmp_path / "group" / "b", make_episodes(50))
    build(tmp_path / "c", make_episodes(50))
    next((tmp_path / "c").glob("*.tar")).unlink()
    (tmp_path / ".d.building").mkdir()
    assert [folder.name for folder in find_datasets(tmp_path)] == ["a", "c", "b"]
    listing = text(list_datasets(tmp_path))
    assert listing.count(good.spec.fingerprint) == 2
    assert "is missing" in listing


def test_empty_root_says_what_to_do(tmp_path: Path) -> None:
    assert "dof data build" in text(list_datasets(tmp_path))


def test_histogram_peaks_where_samples_do() -> None:
    samples = np.concatenate([np.zeros(100), np.ones(1), np.full(50, 2.0)])
    bars = histogram(samples, bins=3)
    assert bars[0] == "█"
    assert bars[0] > bars[2] > bars[1] > " "
