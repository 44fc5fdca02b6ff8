"""The examples run as they stand, on a small budget; and from Python comes what the commands give."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dof_lightning
from dof_lightning.errors import UserError
from tests.fixtures.workplace import ROOT, Workplace

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


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`python examples/<name>` in this process, which has loaded torch; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        file = str(ROOT / "examples" / name)
        monkeypatch.setattr(sys, "argv", [file, *arguments])
        runpy.run_path(file, run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_run_here() -> None:
    assert sorted(BUDGETS) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", BUDGETS)
def test_examples_run_as_they_stand(name: str, run_example: Callable[..., str]) -> None:
    assert SAYS[name] in run_example(name, *BUDGETS[name])


def test_an_agent_that_was_exported_before_is_loaded(run_example: Callable[..., str]) -> None:
    agent = ROOT / "tests" / "fixtures" / "written_by_0_1_0" / "agents" / "dof_policy" / "agent_0.json"
    assert "agent_0 acted for 25 steps" in run_example("act_with_one_agent.py", str(agent))


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
