"""The examples run as they stand, on a small budget; and from Python comes what the commands give."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dof_lightning
from dof_lightning.errors import UserError
from tests.fixtures.workplace import ROOT, SMALL, Workplace

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


def test_the_readme_does_from_python_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = dof_lightning.train
    monkeypatch.setattr(dof_lightning, "train", lambda *typed: train(*typed, *SMALL[1:]))
    (program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(program.splitlines()) <= 15
    exec(program, {})  # in this process, which has loaded torch
    score, mean_return = capsys.readouterr().out.splitlines()[-2:]
    assert "'passed': True" in score
    assert re.fullmatch(r"tensor\([\d.]+, dtype=torch.float64\)", mean_return)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.ipynb")))
def test_notebooks_run_as_they_stand(name: str, tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient", reason="[dev] has it")
    notebook = pytest.importorskip("nbformat").read(ROOT / "examples" / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs before committing"
    client.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    assert {"image/png", "image/gif"} & {*shown}


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
