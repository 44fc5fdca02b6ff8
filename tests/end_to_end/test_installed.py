"""The wheel, installed into an environment of its own and used from another folder."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fixtures.workplace import ROOT, SMALL, succeeded

OFFLINE = ("--quiet", "--no-deps", "--no-index")
LEFT_OUT = ("runs", "data", "tests", "benchmarks", "docs", "build")


def _at_the_top(folder: str, names: list[str]) -> set[str]:
    """The names at the top of the tree that do not belong in a wheel."""
    return {name for name in names if Path(folder) == ROOT and (name.startswith(".") or name in LEFT_OUT)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    sources = shutil.copytree(ROOT, folder / "sources", ignore=_at_the_top)  # a build leaves files beside them
    # As `python -m build` does: the wheel is made from the sdist, which must have all that it needs.
    sdist = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    succeeded(run(sys.executable, "-c", sdist, cwd=sources))
    (packed,) = folder.glob("*.tar.gz")
    succeeded(run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, packed))
    return next(folder.glob("*.whl"))


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    typed = [str(part) for part in command]
    return subprocess.run(typed, cwd=cwd, env=outside, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that holds the wheel, and what it needs from this one."""
    place = tmp_path_factory.mktemp("environment")
    succeeded(run(sys.executable, "-m", "venv", "--without-pip", place))
    python = place / "bin" / "python"
    succeeded(run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, wheel))
    packages = next(place.glob("lib/python*/site-packages"))
    # A path, not a `.pth` of its own: what is installed here to be edited stays unseen there.
    (packages / "needed.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    return place / "bin"


def test_the_wheel_has_every_option_and_the_program(wheel: Path) -> None:
    inside = {name.partition("_installed/")[2] for name in zipfile.ZipFile(wheel).namelist() if "_installed/" in name}
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {*ours, "train.py"} <= inside


def test_pretrained_agents_come_with_the_wheel(installed: Path, tmp_path: Path) -> None:
    load = (
        "from dof_lightning import load_agent; from dof_lightning.deployment.record import SHIPPED, shipped_teams; "
        "print(SHIPPED, *(load_agent(name, agent=2).name for name in shipped_teams()))"
    )
    folder, *loaded = succeeded(run(installed / "python", "-c", load, cwd=tmp_path)).split()
    assert Path(folder).is_relative_to(installed.parent)
    assert loaded == [*["agent_2"] * 3, *["predator_2"] * 2]


def test_nothing_of_the_wheel_can_collide(wheel: Path) -> None:
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.startswith("dof_lightning")} == set()


def test_commands_and_imports_work_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert succeeded(run(installed / "dof", "--version", cwd=tmp_path)).startswith("dof-lightning ")
    assert "mpe_spread_expert" in succeeded(run(installed / "dof", "data", "list", cwd=tmp_path))
    say = "import data_modules, callbacks, dof_lightning; print(data_modules.__file__, dof_lightning.__file__)"
    for file in succeeded(run(installed / "python", "-c", say, cwd=tmp_path)).split():
        assert Path(file).is_relative_to(installed.parent)


@pytest.mark.slow
def test_it_trains_from_another_folder(installed: Path, tmp_path: Path) -> None:
    succeeded(run(installed / "dof", "train", *SMALL, "trainer.max_steps=2", "run_dir=mine", cwd=tmp_path))
    assert (tmp_path / "mine" / "results.json").is_file()
