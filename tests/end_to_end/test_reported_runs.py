"""`dof report` of run folders: the runs it finds, reports and leaves out."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dof_lightning.digest import KEY, sealed
from dof_lightning.errors import UserError
from dof_lightning.report.command import report
from dof_lightning.report.gathering import gather
from dof_lightning.report.record import UNRECORDED, record_of
from dof_lightning.training.run_folder import CHECKPOINT_VARIABLE, RUN_DIR_VARIABLE
from tests.fixtures.workplace import run_here

SMALL = ("experiment=mpe_spread_random", "algorithm=bc", "debug=default", "data.episodes=50", "trainer.max_steps=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs: two settings of one seed, and one that was never finished."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, rate in (("slow", 0.002), ("fast", 0.01)):
            for variable in (RUN_DIR_VARIABLE, CHECKPOINT_VARIABLE):
                patch.setenv(variable, "")
            counted = ("rollout.report_episodes=2", "rollout.episodes=2", f"run_dir=runs/{name}")
            run_here(*SMALL, *counted, f"algorithm.learning_rate={rate}")
    (folder / "runs" / "begun" / "checkpoints").mkdir(parents=True)
    shutil.copy(folder / "runs" / "slow" / "config.yaml", folder / "runs" / "begun")
    return folder / "runs"


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """One finished run, to be changed."""
    return Path(shutil.copytree(runs / "slow", tmp_path / "copied"))


def test_the_device_is_the_runs_whoever_reports_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads((runs / "slow" / "results.json").read_text())["device"]
    assert "CPU, " in told
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "the reporter's")
    assert record_of(runs / "slow")[0].device == told


def test_an_older_run_that_does_not_tell_its_device_says_so(copied: Path) -> None:
    results = json.loads((copied / "results.json").read_text())
    for younger in ("device", "format_version", KEY):
        del results[younger]
    (copied / "results.json").write_text(json.dumps(results))
    assert record_of(copied)[0].device == UNRECORDED


@pytest.mark.parametrize("key", ["steps", "seed"])
def test_results_that_the_rest_of_the_folder_contradicts_are_refused(copied: Path, key: str) -> None:
    results = json.loads((copied / "results.json").read_text())
    (copied / "results.json").write_text(json.dumps(sealed(results | {key: 7})))
    with pytest.raises(UserError, match=f"results.json contains {key} 7"):
        record_of(copied)


def test_a_folder_is_reported_with_the_runs_below_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "w" / "runs")
    shutil.copytree(runs / "slow", tmp_path / "w" / "runs" / "damaged")
    (tmp_path / "w" / "runs" / "damaged" / "results.json").write_text("{")
    capsys.readouterr()
    report([str(tmp_path / "w"), f"output={tmp_path}", "formats=markdown"])
    told = (tmp_path / "report.md").read_text()
    assert [f"| bc: algorithm.learning_rate={rate} |" in told for rate in ("0.002", "0.01")] == [True, True]
    begun, damaged = capsys.readouterr().err.splitlines()
    assert "begun contains no finished run" in begun
    assert "damaged/results.json is damaged" in damaged


def test_a_folder_without_a_run_says_so(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none lies below it"):
        gather([tmp_path])
    with pytest.raises(UserError, match=r"begun contains no finished run"):
        gather([runs / "begun"])
