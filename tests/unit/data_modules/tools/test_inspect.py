"""Dataset cards describe a dataset; lists survive damaged ones."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from data_modules.storage.card import histogram
from data_modules.tools.inspect import KnownDataset, describe, find_datasets, list_datasets
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


@pytest.mark.parametrize(("width", "shown"), [(80, False), (160, True)])
def test_the_list_fits_the_screen(tmp_path: Path, width: int, shown: bool) -> None:
    folder = tmp_path / "mpe_spread_medium-40000-1d8e833d"
    manifest = build(folder, make_episodes(50), name="mpe_spread_medium")
    commands = [f"dof data build experiment={name}" for name in ("mpe_spread_expert", "a_name_that_is_too_long" * 4)]
    known = [KnownDataset(command, "world", command) for command in commands]
    screen = Console(width=width, file=io.StringIO(), markup=False)
    screen.print(list_datasets(tmp_path, known), soft_wrap=True)
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in printed.splitlines()]
    row = next(line for line in lines if folder.name in line)
    assert len(row) <= width
    assert f"{manifest.behavior['return_mean']:.2f} ±" in row
    assert (manifest.spec.fingerprint in row) == shown
    assert set(commands) <= set(lines), "a command can be pasted"


def test_empty_root_says_what_to_do(tmp_path: Path) -> None:
    assert "dof data build" in text(list_datasets(tmp_path))


def test_histogram_peaks_where_samples_do() -> None:
    samples = np.concatenate([np.zeros(100), np.ones(1), np.full(50, 2.0)])
    bars = histogram(samples, bins=3)
    assert bars[0] == "█"
    assert bars[0] > bars[2] > bars[1] > " "
