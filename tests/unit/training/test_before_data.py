"""What a run refuses before there are any data, and what it names at its end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.training.run import Run, _describe_behavior
from dof_lightning.training.run_folder import RunFolder
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.workplace import SMALL, run_here


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("trainer.devices=two",), "trainer.devices must be a number of processes, auto, or devices"),
        (("trainer.devices=0",), "trainer.devices must be a number"),
        (("trainer.accelerator=gpv",), "accelerator=gpv"),
        (("trainer.max_time=soon",), "DD:HH:MM:SS"),
        (("trainer.devices=2", "data.global_batch_size=63"), "data.global_batch_size=63 does not divide by 2 ranks"),
        (("trainer.strategy=fsdp2", "trainer.precision=bf16-mixed"), "fsdp2 trains in 32-true"),
        (("data.partition=rows",), "data.partition"),
        (("algorithm.learning_rate=-1",), "algorithm.learning_rate=-1 must be above 0"),
        (("algorithm.candidates=3", "algorithm.critics=none", "algorithm.q_gradient=none"), "candidates above 1 needs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_needs_no_data_is_refused_before_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOF_RUN_DIR", raising=False)
    plain = [text for text in SMALL if not text.startswith("algorithm.")]
    with pytest.raises(UserError) as error:
        run_here(*plain, *typed, "run_dir=refused")
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == [], "neither data nor a run folder"


@pytest.mark.parametrize("devices", ["1", "2", "auto", "-1", "[0,1]", "'0,1'", "[1]", "'1,'"])
def test_every_way_to_say_devices_is_taken(devices: str) -> None:
    checks.check(configuration.compose([*SMALL, f"trainer.devices={devices}"]))


@pytest.mark.parametrize(("told", "kept"), [({}, False), ({"win_rate": 0.5}, True), ({"win_rate": None}, False)])
def test_a_win_rate_that_is_not_known_stays_with_its_dataset(tmp_path: Path, told: dict[str, Any], kept: bool) -> None:
    """A table of scores could not print null."""
    job = cast(Run, SimpleNamespace(manifest=build(tmp_path / "toy", make_episodes(10), behavior=told)))
    assert ("win_rate" in _describe_behavior(job)) == kept


def test_the_checkpoint_to_evaluate_is_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.best_or_last == folder.last
    folder.checkpoints.mkdir()
    folder.best.touch()
    assert folder.best_or_last == folder.best
