"""The output of a sweep: each line names its job, and one table ends it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dof_lightning.config.messages import explain
from dof_lightning.errors import UserError
from dof_lightning.training.results_file import write_results
from dof_lightning.training.run_folder import RunFolder
from dof_lightning.training.sweep import NOTES_VARIABLE, ending_in_a_table, labelled, note, score_of


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(NOTES_VARIABLE, "")


def run(name: str, **results: Any) -> Path:
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def table(said: str) -> list[list[str]]:
    return [line.split() for line in said.splitlines()]


def test_a_sweep_ends_in_a_table_of_what_differs_and_what_was_scored(capsys: pytest.CaptureFixture[str]) -> None:
    with ending_in_a_table(["-m"]):
        for job, weight in ((1, 3), (0, 1)):
            typed = ["experiment=a", f"algorithm.q_weight={weight}", "seed=0"]
            note(job, typed, None)
            last = {"return_mean": 10.0 * weight, "normalized_score": 1.5 * weight, "own_normalized_score": None}
            note(job, typed, run(f"q {weight}", last=last))
        note(2, ["experiment=a", "algorithm.q_weight=9", "seed=0"], None)
    header, *rows, told, command = capsys.readouterr().out.splitlines()
    assert header.split() == ["job", "algorithm.q_weight", "normalised", "score", "return", "run", "folder"]
    assert [row.split() for row in rows] == [
        ["0", "1", "1.5", "10.0", "runs/q", "1"],
        ["1", "3", "4.5", "30.0", "runs/q", "3"],
        ["2", "9", "-", "-", "not", "finished"],
    ]
    assert "on other seeds" in told
    assert command.endswith("dof report 'runs/q 1' 'runs/q 3'")
    assert list(Path("runs", ".hydra").iterdir()) == []


def test_the_table_is_shown_where_a_job_ends_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    def end() -> None:
        note(0, ["seed=0"], run("done", heldout={"heldout/cloning": 0.25}))
        note(1, ["seed=1"], None)
        raise SystemExit(2)

    with pytest.raises(SystemExit), ending_in_a_table(["-m"]):
        end()
    assert table(capsys.readouterr().out) == [
        ["job", "seed", "heldout/cloning", "run", "folder"],
        ["0", "0", "0.25", "runs/done"],
        ["1", "1", "-", "not", "finished"],
    ]


def test_what_is_no_sweep_shows_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    with ending_in_a_table(["seed=0"]):
        assert os.environ[NOTES_VARIABLE]
    assert capsys.readouterr().out == ""
    assert not Path("runs").exists()


def test_submitted_jobs_say_where_they_print(capsys: pytest.CaptureFixture[str]) -> None:
    with ending_in_a_table(["-m", "hydra/launcher=submitit_slurm"]):
        assert "runs/.hydra/.submitit/" in capsys.readouterr().out


def test_every_line_of_a_job_carries_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    with labelled(7):
        for text in ("one\ntwo\n", "th", "ree\n", "unended"):
            sys.stdout.write(text)
        sys.stderr.write("bad\n")
    captured = capsys.readouterr()
    assert captured.out == "[7] one\n[7] two\n[7] three\n[7] unended\n"
    assert captured.err == "[7] bad\n"


@pytest.mark.parametrize(
    ("results", "score"),
    [
        ({"last": {"return_mean": 5.0, "normalized_score": 0.0, "own_normalized_score": None}}, 0.0),
        ({"last": {"return_mean": 5.0, "normalized_score": 1.0, "own_normalized_score": 2.0}}, 2.0),
        ({"last": {"return_mean": 5.0}}, 5.0),
        ({"last": {"return_mean": None}, "heldout": {"heldout/diffusion": 0.5, "heldout/value": 3.0}}, 0.5),
        ({"study": "games"}, None),
    ],
)
def test_what_a_sweeper_compares(results: dict[str, Any], score: float | None) -> None:
    assert score_of(run("one", **results)) == score


def test_a_changed_score_is_neither_compared_nor_shown() -> None:
    folder = run("one", last={})
    write_results(RunFolder(folder).results, {"last": {"return_mean": 5.0}})
    assert score_of(folder) == 5.0
    RunFolder(folder).results.write_text(RunFolder(folder).results.read_text().replace("5.0", "6.0"))
    with pytest.raises(UserError, match=r"one/results\.json is damaged"):
        score_of(folder)
    with pytest.raises(UserError, match=r"one/results\.json is damaged"), ending_in_a_table(["-m"]):
        note(0, ["seed=0"], folder)


def test_a_sweeper_that_is_not_installed_is_one_line() -> None:
    from hydra.errors import MissingConfigException

    error = MissingConfigException("", "hydra/sweeper/nevergrad", ["basic"])
    assert explain(error).startswith("hydra/sweeper=nevergrad is not installed; pip install 'dof-lightning[sweep]'")
