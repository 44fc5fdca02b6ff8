from pathlib import Path

import pytest

from dof_lightning.training.run_folder import CHECKPOINT_VARIABLE, RUN_DIR_VARIABLE
from tests.fixtures.workplace import SMALL, Workplace, succeeded

FINISHED = "finished"
UNINTERRUPTED = (*SMALL, "trainer.max_steps=60", "checkpoint.every_n_steps=5", "rollout.every_n_steps=30")


@pytest.fixture(autouse=True)
def _environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In-process commands take nothing from the environment, and leave nothing in it."""
    monkeypatch.delenv("DOF_DATA", raising=False)
    for variable in (RUN_DIR_VARIABLE, CHECKPOINT_VARIABLE):
        monkeypatch.setenv(variable, "")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="session")
def finished_output(workplace: Workplace) -> str:
    """The output of a whole run, whose folder is `finished`."""
    return succeeded(workplace.train(*UNINTERRUPTED, f"run_dir={FINISHED}"))


@pytest.fixture(scope="session")
def finished(workplace: Workplace, finished_output: str) -> str:
    """The folder of a whole run."""
    return FINISHED


@pytest.fixture
def folder(workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, with the datasets of all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOF_DATA", str(workplace.path / "data"))
    return tmp_path
