"""The examples run as they stand, on a small budget; and from Python comes what the commands give."""

import subprocess
import sys
from pathlib import Path

import pytest

import dof_lightning
from dof_lightning.errors import UserError
from tests.fixtures.workplace import ROOT, Workplace, environment, succeeded

BUDGETS = {
    "train_from_python.py": ("10", "100"),
    "own_factorization.py": ("10", "100"),
    "act_with_one_agent.py": (),
}
SAYS = {
    "train_from_python.py": "normalised score",
    "own_factorization.py": "joint and local actions differ by at most",
    "act_with_one_agent.py": "agent_0 acted for 25 steps",
}


def run_example(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    return succeeded(
        subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    )


def test_every_example_is_run_here() -> None:
    assert sorted(BUDGETS) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", BUDGETS)
def test_examples_run_as_they_stand(name: str, tmp_path: Path) -> None:
    assert SAYS[name] in run_example(name, tmp_path, *BUDGETS[name])


def test_an_agent_that_was_exported_before_is_loaded(workplace: Workplace, finished: str) -> None:
    checkpoint = workplace.path / finished / "checkpoints" / "last.ckpt"
    agents = succeeded(workplace.dof("export", f"checkpoint={checkpoint}", "output=for_the_example")).strip()
    said = run_example("act_with_one_agent.py", workplace.path, str(workplace.path / agents / "agent_2.json"))
    assert "agent_2 acted for 25 steps" in said


def test_evaluating_from_python_gives_the_reported_numbers(
    workplace: Workplace, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace.path)
    score = dof_lightning.evaluate(finished)
    assert score.to_dict() == workplace.results(finished)["last"]
    fewer = dof_lightning.evaluate(Path(finished) / "checkpoints" / "best.ckpt", "rollout.report_episodes=4")
    assert fewer.episodes == 4
    with pytest.raises(UserError, match=r"sampler\.steps is given a list"):
        dof_lightning.evaluate(finished, "sampler.steps=[1,2]")


def test_training_from_python_knows_a_finished_run(
    workplace: Workplace, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace.path)
    from tests.end_to_end.conftest import UNINTERRUPTED

    assert dof_lightning.train(*UNINTERRUPTED, f"run_dir={finished}") == Path(finished)
