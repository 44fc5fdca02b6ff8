"""One run from the command to `results.json`, and what can be done with its folder."""

import csv
import json
import signal
import time
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dof_lightning.cli import main as cli
from tests.end_to_end.conftest import UNINTERRUPTED
from tests.fixtures.workplace import SMALL, Workplace, run_here, succeeded

SCORE = {"episodes": int, "return_mean": float, "return_std": float, "normalized_score": float, "certificate": dict}
RESULTS = {
    "algorithm": str,
    "experiment": str,
    "dataset_fingerprint": str,
    "seed": int,
    "steps": int,
    "windows": int,
    "started_at": float,
    "wall_seconds": float,
    "peak_memory_mb": float,
    "device": str,
    "resumed_from_step": type(None),
    "last": dict,
    "best": dict,
    "behavior": dict,
    "format_version": int,
    "seal": str,
}
SCHEDULED = ("algorithm.learning_rate_schedule=cosine", "algorithm.learning_rate_warmup_steps=10")
CURVES = (
    "loss",
    "loss/diffusion",
    "loss/critic",
    "loss/q",
    "q/value",
    "q/target",
    "noise_factorization/weight_0",
    "data_factorization/weight_0",
    "heldout/diffusion",
    "gradient_norm/denoiser",
    "gradient_norm/critic",
    "learning_rate/denoiser",
    "learning_rate/critic",
    "rollout/return_mean",
    "rollout/normalized_score",
    "rollout/behavior_normalized_score",
    "rollout/random_normalized_score",
    "rollout/steps_per_second",
    "throughput/windows_per_second",
    "throughput/data_wait_share",
)


def test_the_folder_holds_what_is_promised(workplace: Workplace, finished: str) -> None:
    folder = workplace.path / finished
    assert {"config.yaml", "results.json", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert list(folder.glob("events.out.tfevents.*"))
    assert list(folder.glob("videos/*.gif"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_steps"] == 60
    assert not list(workplace.path.glob("outputs")), "Hydra left a folder"


def test_results_have_the_promised_shape(workplace: Workplace, finished: str) -> None:
    results = workplace.results(finished)
    assert {key: type(value) for key, value in results.items()} == RESULTS
    for which in ("last", "best"):
        assert {key: type(value) for key, value in results[which].items()} == SCORE
        assert results[which]["certificate"] == {"passed": True, "max_abs_delta": 0.0}
    assert results["algorithm"] == "dof_policy"
    assert results["experiment"] == "mpe_spread_random"
    assert results["steps"] == 60
    assert results["windows"] == 60 * 64


def test_the_terminal_shows_summary_table_and_next_commands(finished_output: str, finished: str) -> None:
    words = ("dataset", "environment", "model", "parameters", "devices", "last", "best", "certified", "behaviour")
    for word in (*words, f"tensorboard --logdir {finished}", f"run_dir={finished}", "dof eval checkpoint="):
        assert word in finished_output


def test_tensorboard_has_every_promised_curve(workplace: Workplace, finished: str) -> None:
    curves: set[str] = set()
    images: set[str] = set()
    hyperparameters = False
    for file in (workplace.path / finished).glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        curves |= set(events.Tags()["scalars"])
        images |= set(events.Tags()["images"])
        hyperparameters |= "_hparams_/session_start_info" in events.summary_metadata
    assert set(CURVES) <= curves, sorted(curves)
    assert "rollout/video" in images
    assert hyperparameters
    assert "final/last_normalized_score" in curves


def test_a_finished_run_says_so(
    workplace: Workplace, finished: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(workplace.path)
    before = workplace.results(finished)
    run_here(*UNINTERRUPTED, f"run_dir={finished}")
    assert "is finished" in capsys.readouterr().out
    assert workplace.results(finished) == before


def test_evaluating_again_gives_the_same_numbers(
    workplace: Workplace, finished: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    printed = {"last": succeeded(workplace.dof("eval", f"checkpoint={finished}/checkpoints/last.ckpt"))}
    monkeypatch.chdir(workplace.path)
    monkeypatch.setattr("dof_lightning.evaluation.score._ASKED_FOR", 1)  # as many as in the commands that trained
    cli.run(["eval", f"checkpoint={finished}/checkpoints/best.ckpt"])
    printed["best"] = capsys.readouterr().out
    for which, output in printed.items():
        assert json.loads(output.splitlines()[-1]) == workplace.results(finished)[which]


@pytest.mark.parametrize(
    "tails",
    [
        ("sampler=ddim", "sampler.steps=1"),
        ("algorithm.candidates=1",),
        ("algorithm.candidates=3", "algorithm.selection=softmax", "algorithm.selection_temperature=0.5"),
    ],
    ids=" ".join,
)
def test_how_agents_sample_and_choose_can_be_changed_at_evaluation(
    workplace: Workplace,
    finished: str,
    tails: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(workplace.path)
    monkeypatch.setattr("dof_lightning.evaluation.score._ASKED_FOR", 1)
    cli.run(["eval", f"checkpoint={finished}/checkpoints/last.ckpt", *tails])
    score = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert score["certificate"]["passed"]
    assert score["return_mean"] != workplace.results(finished)["last"]["return_mean"]


@pytest.fixture
def finished_with_schedule(workplace: Workplace) -> str:
    """The folder of a whole run whose learning rates rise and fall."""
    succeeded(workplace.train(*UNINTERRUPTED, *SCHEDULED, "run_dir=scheduled"))
    return "scheduled"


@pytest.mark.parametrize(
    ("fixture", "more"),
    [
        ("finished", ()),
        pytest.param("finished_with_schedule", SCHEDULED, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
    ids=["constant learning rates", "scheduled learning rates"],
)
def test_a_run_killed_and_resumed_ends_with_the_same_bits(
    request: pytest.FixtureRequest, workplace: Workplace, fixture: str, more: tuple[str, ...]
) -> None:
    finished: str = request.getfixturevalue(fixture)
    killed = f"{finished}_killed"
    typed = (*UNINTERRUPTED, *more, f"run_dir={killed}")
    process = workplace.start_training(*typed)
    last = workplace.path / killed / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workplace.path / killed / "results.json").exists()
    resumed = workplace.train(*typed)
    succeeded(resumed)
    assert resumed.stderr == "", "a resumed run complains about what the user cannot mend"
    assert 0 < workplace.results(killed)["resumed_from_step"] < 60
    ours, theirs = workplace.checkpoint(killed), workplace.checkpoint(finished)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_identical(ours[part], theirs[part], part)
    for which in ("last", "best", "behavior", "dataset_fingerprint"):
        assert workplace.results(killed)[which] == workplace.results(finished)[which]


def assert_identical(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in ours.items():
            assert_identical(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_identical(*pair, f"{where}.{index}")
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_devices_end_properly(workplace: Workplace, devices: int) -> None:
    run_dir = f"{devices}_devices"
    done = workplace.train(*SMALL, f"trainer.devices={devices}", "trainer.max_steps=6", f"run_dir={run_dir}")
    printed = succeeded(done)
    assert done.stderr == "", "a rank complained"
    assert f"{devices} x cpu" in printed
    assert printed.count("certified") == 2, "more than one rank printed the table"
    assert workplace.results(run_dir)["steps"] == 6


@pytest.mark.slow
def test_the_main_job_reaches_the_expert(workplace: Workplace) -> None:
    succeeded(workplace.train("experiment=mpe_spread_expert", "run_dir=main_job", seconds=1200))
    last = workplace.results("main_job")["last"]
    assert last["episodes"] == 200
    assert last["normalized_score"] >= 100
    assert last["certificate"]["passed"]


def test_an_unfinished_run_is_found_again(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.path)
    overrides = [*SMALL, "trainer.max_steps=6", "seed=11"]
    run_here(*overrides)
    (results,) = workplace.path.glob("runs/mpe_spread_random/dof_policy/*/results.json")
    results.unlink()  # as if it had been killed just before the end
    run_here(*overrides)
    (results,) = workplace.path.glob("runs/mpe_spread_random/dof_policy/*/results.json")
    assert json.loads(results.read_text())["resumed_from_step"] == 6


def test_a_longer_run_goes_on_from_a_finished_one(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.path)
    overrides = (*SMALL, "run_dir=longer", "algorithm=dof_cloning", "logger=[tensorboard,csv]")
    overrides = tuple(o for o in overrides if not o.startswith("algorithm."))  # of critics, which cloning has none of
    for steps in (4, 8):
        run_here(*overrides, f"trainer.max_steps={steps}")
    results = workplace.results("longer")
    assert (results["resumed_from_step"], results["steps"]) == (4, 8)
    assert len(list((workplace.path / "longer").glob("events.out.tfevents.*"))) > 1
    with (workplace.path / "longer" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for tag, steps in (("learning_rate/denoiser", [*range(1, 9)]), ("final/last_return_mean", [4, 8])):
        assert [int(row["step"]) for row in rows if row[tag]] == steps, tag
