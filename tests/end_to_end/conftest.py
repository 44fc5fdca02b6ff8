import pytest

from tests.end_to_end.workplace import SMALL, Workplace, succeeded

FINISHED = "finished"
UNINTERRUPTED = (*SMALL, "trainer.max_steps=60", "checkpoint.every_n_steps=5", "rollout.every_n_steps=30")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="session")
def finished_output(workplace: Workplace) -> str:
    """What a whole run printed; its folder is `finished`."""
    return succeeded(workplace.train(*UNINTERRUPTED, f"run_dir={FINISHED}"))


@pytest.fixture(scope="session")
def finished(workplace: Workplace, finished_output: str) -> str:
    """The folder of a whole run."""
    return FINISHED
