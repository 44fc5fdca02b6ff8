"""rollout=none: the same training, nothing played, and results that report it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_modules.convert.base import Layout
from dof_lightning.cli import main as cli
from dof_lightning.config import compose as configuration
from dof_lightning.console import make_console, show_scores
from dof_lightning.errors import UserError
from dof_lightning.evaluation.score import NOT_EVALUATED
from dof_lightning.spec import AgentSpec
from dof_lightning.studies import runner
from tests.end_to_end.conftest import UNINTERRUPTED
from tests.fixtures.imported_dataset import write_imported
from tests.fixtures.workplace import SMALL, Workplace, run_here, succeeded

UNPLAYED = (*UNINTERRUPTED, "rollout=none", "run_dir=unplayed")


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.path)


@pytest.fixture(scope="module")
def unplayed(workplace: Workplace) -> Workplace:
    """A run that stops half-way and is continued, neither with an environment to play."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace.path)
        for steps in (30, 60):
            run_here(*UNPLAYED, f"trainer.max_steps={steps}")
    return workplace


def test_the_results_say_that_nothing_was_evaluated(unplayed: Workplace) -> None:
    results = unplayed.results("unplayed")
    assert results["last"] == results["best"] == dict(NOT_EVALUATED)
    assert (results["steps"], results["resumed_from_step"]) == (60, 30)
    assert results["behavior"]["return_mean"] > 0


def test_training_is_the_same_as_with_rollouts(unplayed: Workplace, finished: str) -> None:
    ours, theirs = (unplayed.checkpoint(run)["state_dict"] for run in ("unplayed", finished))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_held_out_losses_are_where_the_curves_end(unplayed: Workplace) -> None:
    curves: dict[str, float] = {}
    for file in sorted((unplayed.path / "unplayed").glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                if event.step in (59, 60):
                    curves[tag] = event.value
    heldout = unplayed.results("unplayed")["heldout"]
    assert heldout["heldout/diffusion"] == pytest.approx(curves["heldout/diffusion"], rel=1e-5)
    assert {name for name in curves if name.startswith("heldout/")} == set(heldout)
    assert not [name for name in curves if name.startswith(("rollout/", "igd/"))]


def test_nothing_that_comes_from_playing_lies_in_the_folder(unplayed: Workplace) -> None:
    folder = unplayed.path / "unplayed"
    assert {path.name for path in (folder / "checkpoints").glob("*.ckpt")} == {"last.ckpt"}
    assert not (folder / "videos").exists()


def test_its_checkpoint_can_be_evaluated_and_exported_later(
    unplayed: Workplace, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = "checkpoint=unplayed/checkpoints/last.ckpt"
    cli.run(["eval", checkpoint])
    assert json.loads(capsys.readouterr().out) == unplayed.results(finished)["last"]
    cli.run(["export", checkpoint, "output=unplayed_agents"])
    assert (unplayed.path / "unplayed_agents" / "agent_0.json").exists()


@pytest.mark.slow
def test_two_ranks_need_no_rollouts_either(workplace: Workplace) -> None:
    succeeded(workplace.train(*UNPLAYED, "run_dir=unplayed_ddp", "trainer.devices=2", "trainer.max_steps=20"))
    results = workplace.results("unplayed_ddp")
    assert results["last"]["status"] == "not evaluated"
    assert results["heldout"]["heldout/diffusion"] > 0


def test_a_study_is_refused_before_anything_is_trained() -> None:
    typed = ["experiment=methods_spread_medium", "rollout=none", "run_dir=unplayed_study"]
    with pytest.raises(UserError, match="rollout=none plays nothing; set rollout=default, or set study=none"):
        runner.run(configuration.compose(typed), typed)


def test_a_world_that_cannot_be_played_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    env = configuration.build(configuration.compose(["experiment=smac_3m_good"])["env"])
    if env.missing is None:
        pytest.skip("the game is here")
    with pytest.raises(UserError, match=r"env=smac_3m cannot be played.*rollout=none"):
        run_here("experiment=smac_3m_good", "rollout=default", "run_dir=unplayable")


def test_data_that_nobody_has_imported_are_refused_with_the_command() -> None:
    typed = ["experiment=smac_2s3z_poor", "data.root=empty", "run_dir=unimported"]
    line = r"empty/smac_2s3z_poor is missing: download .*2s3z.*dof data import format=vault .*env=smac_2s3z"
    with pytest.raises(UserError, match=line):
        run_here(*typed)


def test_configurations_from_before_there_was_a_choice_play() -> None:
    config: dict[str, Any] = {"rollout": {"every_n_steps": 1, "episodes": 1, "report_episodes": 1}}
    assert configuration.rolls_out(config)
    for option, plays in (("default", True), ("none", False)):
        assert configuration.rolls_out(configuration.compose([*UNINTERRUPTED, f"rollout={option}"])) == plays


def test_the_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    env = configuration.build(configuration.compose(["experiment=smac_3m_good"])["env"])
    show_scores(make_console(), {"last": NOT_EVALUATED}, {"return_mean": 16.49, "return_std": 5.92}, env.spec)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("last")] == [["last", "not", "evaluated"]]


def test_data_whose_world_nobody_knows_are_trained_on_without_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = Layout((AgentSpec("a", 5, 2), AgentSpec("b", 5, 2)), "discrete", 25, 0).to_spec("mine")
    write_imported(tmp_path / "mine", "mine", spec, n_episodes=100)
    typed = [*SMALL, f"data.path={tmp_path}/mine", "trainer.max_steps=2", "run_dir=run"]
    with pytest.raises(UserError, match="rollout=none"):
        run_here(*typed)
    run_here(*typed, "rollout=none")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["last"]["status"] == "not evaluated"
    assert results["behavior"]["normalized_score"] is None


def test_own_data_are_trained_on_without_another_tasks_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = Layout((AgentSpec("a", 5, 2), AgentSpec("b", 5, 2)), "discrete", 25, 0).to_spec("mine")
    write_imported(tmp_path / "mine", "mine", spec, n_episodes=100)
    typed = ["experiment=none", "data.path=mine", "algorithm=bc", "debug=default", "trainer.max_steps=2"]
    with pytest.raises(UserError, match=r"cannot be played.*type env=.*rollout=none"):
        run_here(*typed)
    run_here(*typed, "rollout=none", "logger=csv")
    printed = capsys.readouterr().out
    assert "conf/hyperparams has none for bc on this dataset" in printed
    assert "dof export checkpoint=" in printed
    assert "dof eval" not in printed
    assert "tensorboard" not in printed
    (folder,) = (tmp_path / "runs" / "mine" / "bc").iterdir()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (results["experiment"], results["last"]["status"]) == ("mine", "not evaluated")
    with pytest.raises(UserError, match="no environment is named; type env="):
        cli.run(["eval", f"checkpoint={folder}"])
    cli.run(["export", f"checkpoint={folder}", "output=agents"])
    assert {path.stem for path in (tmp_path / "agents").glob("*.json")} == {"a", "b"}
