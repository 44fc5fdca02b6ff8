"""Callbacks in real trainings of the toy module: rollouts, videos and throughput."""

import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from callbacks.checkpoint import BestCheckpoint
from callbacks.progress import Progress
from callbacks.rollout import RolloutCallback
from callbacks.throughput import ThroughputCallback, peak_memory_mb
from callbacks.video import VideoCallback
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.spec import ReferenceScores
from tests.fixtures.toy_world import ToyEnv, ToyModule, toy_loader, toy_run
from tests.fixtures.trainers import quiet_trainer
from tests.fixtures.two_rank_rollout import measure


def rollouts(
    env: ToyEnv | None = None, every_n_steps: int = 4, behavior_return: float | None = None
) -> RolloutCallback:
    return RolloutCallback(toy_run(env, behavior_return=behavior_return), 10, every_n_steps, chunk=4)


def train(folder: Path, *callbacks: Callback, max_steps: int = 10, **options) -> tuple[Trainer, ToyModule]:
    torch.manual_seed(0)
    module = ToyModule()
    trainer = quiet_trainer(
        max_steps=max_steps,
        folder=folder,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, toy_loader())
    return trainer, module


def train_with_tensorboard(folder: Path, *callbacks: Callback, **options) -> EventAccumulator:
    train(folder, *callbacks, logger=TensorBoardLogger(folder, name="", version=""), **options)
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Scalars(tag)]


class Spy(Callback):
    """Notes a metric after every batch at which it changed."""

    def __init__(self, tag: str) -> None:
        self.tag, self.seen = tag, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        value = trainer.callback_metrics.get(self.tag)
        if value is not None and float(value) not in self.seen.values():
            self.seen[trainer.global_step] = float(value)


def test_rollouts_come_every_n_steps_and_at_the_last(tmp_path: Path) -> None:
    events = train_with_tensorboard(tmp_path, rollouts(), log_every_n_steps=7)
    assert steps(events, "rollout/return_mean") == [4, 8, 10]


def test_rollouts_come_once_a_step_when_batches_accumulate(tmp_path: Path) -> None:
    events = train_with_tensorboard(tmp_path, rollouts(every_n_steps=2), accumulate_grad_batches=3, max_steps=5)
    assert steps(events, "rollout/return_mean") == [2, 4, 5]


def test_values_are_those_of_the_policy_at_that_step(tmp_path: Path) -> None:
    trainer, module = train(tmp_path, rollouts(), max_steps=4)
    seeds = evaluation_seeds(0, "selection", 10)
    expected = run_rollout(module.policy(), ToyEnv(), seeds, (0, "rollout", "selection"), chunk=4).returns
    metrics = trainer.callback_metrics
    assert float(metrics["rollout/return_mean"]) == pytest.approx(float(expected.mean()), rel=1e-6)
    assert float(metrics["rollout/return_std"]) == pytest.approx(float(expected.std(correction=0)), rel=1e-6)
    score = ToyEnv().spec.reference.normalize(float(expected.mean()))
    assert float(metrics["rollout/normalized_score"]) == pytest.approx(score, rel=1e-6)
    assert metrics["rollout/certificate_max_abs_delta"] == 0.0
    assert metrics["rollout/steps_per_second"] > 0
    assert "rollout/win_rate" not in metrics


def charts_of(events: EventAccumulator, category: str) -> dict[str, set[str]]:
    """Tags by chart of a category of *Custom Scalars*, of which the scores are the first."""
    (written,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(written.tensor_proto.string_val[0])
    found = {one.title: one.chart for one in layout.category}
    assert list(found) == ["rollout", "loss"]
    return {chart.title: set(chart.multiline.tag) for chart in found[category]}


def test_progress_bar_shows_the_normalized_score(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, rollouts(), max_steps=4)
    assert "rollout/normalized_score" in trainer.progress_bar_metrics
    assert "rollout/return_mean" not in trainer.progress_bar_metrics


def test_without_a_reference_the_return_is_shown_and_nothing_is_normalized(tmp_path: Path, capsys) -> None:
    env = ToyEnv()
    env.spec = replace(env.spec, reference=None)
    watchers = (rollouts(env, behavior_return=5.0), Progress(seconds_between_lines=0))
    events = train_with_tensorboard(tmp_path, *watchers, max_steps=4)
    assert "  return " in capsys.readouterr().out.splitlines()[-1]
    assert not [tag for tag in events.Tags()["scalars"] if "normalized" in tag]
    assert list(charts_of(events, "rollout")) == ["return"]


def test_both_scores_are_drawn_where_references_were_measured_here(tmp_path: Path) -> None:
    env = ToyEnv()
    env.spec = replace(env.spec, own_reference=ReferenceScores(random=-5.0, expert=15.0, source="measured"))
    events = train_with_tensorboard(tmp_path, rollouts(env, behavior_return=5.0), max_steps=4)
    (score,), (own,) = (events.Scalars(f"rollout/{name}") for name in ("normalized_score", "own_normalized_score"))
    mean = events.Scalars("rollout/return_mean")[0].value
    assert (score.value, own.value) == pytest.approx((5 * (mean + 10), 5 * (mean + 5)), rel=1e-5)
    assert [e.value for e in events.Scalars("rollout/behavior_own_normalized_score")] == [50.0]
    assert [e.value for e in events.Scalars("rollout/random_return")] == [-5.0]
    charts = charts_of(events, "rollout")
    for kind in ("own_normalized_score", "normalized_score"):
        assert charts[kind] == {f"rollout/{who}{kind}" for who in ("", "behavior_", "random_")}


def test_win_rate_where_there_is_something_to_win(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, rollouts(ToyEnv(early=True, battle=True)), max_steps=4)
    seeds = evaluation_seeds(0, "selection", 10)
    expected = ((1 + seeds % 6) % 3 == 0).float().mean()
    assert float(trainer.callback_metrics["rollout/win_rate"]) == pytest.approx(float(expected))


def test_a_cheating_policy_shows(tmp_path: Path) -> None:
    class Cheat(Callback):
        def on_fit_start(self, trainer, pl_module) -> None:
            pl_module.actor.peek = "observation"

    trainer, _ = train(tmp_path, Cheat(), rollouts(), max_steps=4)
    assert trainer.callback_metrics["rollout/certificate_max_abs_delta"] > 0


def test_model_checkpoint_sees_the_rollout_of_the_same_step(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{step}", monitor="rollout/return_mean", mode="max", every_n_train_steps=4, save_top_k=-1
    )
    spy = Spy("rollout/return_mean")
    train(tmp_path, checkpoint, rollouts(), spy, max_steps=8)
    saved = {int(path.rpartition("=")[2].removesuffix(".ckpt")): v for path, v in checkpoint.best_k_models.items()}
    assert saved == pytest.approx(spy.seen)
    assert sorted(saved) == [4, 8]


def test_training_is_the_same_with_and_without_rollouts(tmp_path: Path) -> None:
    _, plain = train(tmp_path)
    watchers = (ThroughputCallback(toy_run(), 3), rollouts(every_n_steps=3), VideoCallback(toy_run(), 3))
    _, watched = train(tmp_path, *watchers)
    assert torch.equal(plain.actor.weight, watched.actor.weight)
    assert plain.actor.dropout.training == watched.actor.dropout.training


def test_constant_lines_share_the_charts_with_the_scores(tmp_path: Path) -> None:
    events = train_with_tensorboard(tmp_path, rollouts(behavior_return=5.0))
    assert [event.value for event in events.Scalars("rollout/behavior_return")] == [5.0] * 3
    assert [event.value for event in events.Scalars("rollout/random_return")] == [-10.0] * 3
    assert [event.value for event in events.Scalars("rollout/behavior_normalized_score")] == [75.0] * 3
    assert charts_of(events, "rollout") == {
        kind: {f"rollout/{who}_{kind}" for who in ("behavior", "random")} | {f"rollout/{measured}"}
        for kind, measured in (("return", "return_mean"), ("normalized_score", "normalized_score"))
    }


def test_losses_stand_beside_held_out_ones_below_the_scores(tmp_path: Path) -> None:
    charts = charts_of(train_with_tensorboard(tmp_path, rollouts()), "loss").values()
    tags = ("loss/diffusion", "heldout/diffusion", "heldout/diffusion_agent_0", "loss/q", "q/value", "q/target")
    drawn = [[tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)] for patterns in charts]
    assert drawn == [["loss/diffusion", "heldout/diffusion"], ["q/value", "q/target"]]


def test_a_video_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("")
    trainer, _ = train(tmp_path, VideoCallback(toy_run(), 5, dirpath=tmp_path / "taken"))
    assert trainer.global_step == 10
    assert "step_5.gif was not written" in caplog.text
    with pytest.raises(UserError, match=r"callbacks\.video\.frames_per_second=0 must be above 0"):
        VideoCallback(toy_run(), 5, frames_per_second=0)


def test_a_metric_that_rollouts_do_not_measure_selects_nothing_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, rollouts(), BestCheckpoint(tmp_path, "rollout/own_score", 4))
    told = [line for line in caplog.messages if "monitor=rollout/own_score has not been measured" in line]
    assert len(told) == 1
    assert "rollout/return_mean" in told[0]
    assert not (tmp_path / "best.ckpt").exists()


def test_callback_periods_must_be_positive() -> None:
    with pytest.raises(UserError, match=r"rollout\.every_n_steps=0 must be at least 1"):
        rollouts(every_n_steps=0)


@pytest.fixture(scope="module")
def by_ranks(
    two_ranks: tuple[Path, subprocess.CompletedProcess], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict]:
    folder, done = two_ranks
    assert (folder / "measured.json").exists(), done.stderr[-2000:]
    _, alone = measure(tmp_path_factory.mktemp("alone"), ranks=1)
    return {1: alone, 2: json.loads((folder / "measured.json").read_text())}


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(by_ranks: dict[int, dict]) -> None:
    names = [n for n in by_ranks[1] if n.startswith("rollout/") and n != "rollout/steps_per_second"]
    assert {"rollout/return_mean", "rollout/return_std", "rollout/normalized_score", "rollout/win_rate"} <= {*names}
    for name in names:
        assert by_ranks[2][name] == pytest.approx(by_ranks[1][name], rel=1e-6, abs=1e-9), name


@pytest.mark.slow
def test_two_ranks_save_the_same_files(by_ranks: dict[int, dict]) -> None:
    assert by_ranks[1]["saved"] == by_ranks[2]["saved"] == ["best.ckpt", "last.ckpt"]


def test_video_is_a_moving_gif_in_tensorboard_and_a_file(tmp_path: Path) -> None:
    events = train_with_tensorboard(tmp_path, VideoCallback(toy_run(), every_n_steps=6))
    images = events.Images("rollout/video")
    assert [image.step for image in images] == [6, 10]
    assert (images[0].height, images[0].width) == (8, 12)
    picture = Image.open(io.BytesIO(images[0].encoded_image_string))
    assert picture.format == "GIF"
    assert picture.n_frames == ToyEnv().spec.horizon + 1
    frames = []
    for index in range(picture.n_frames):
        picture.seek(index)
        frames.append(np.asarray(picture.convert("RGB")).copy())
    assert not np.array_equal(frames[1], frames[2])
    files = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert files == ["step_10.gif", "step_6.gif"]
    assert (tmp_path / "videos" / "step_6.gif").read_bytes() == images[0].encoded_image_string


def test_an_environment_that_cannot_draw_is_said_once_and_trains(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEnv, "can_render", False)
    train(tmp_path, VideoCallback(toy_run(), every_n_steps=3))
    assert capsys.readouterr().err.count("env=toy cannot draw") == 1
    assert not (tmp_path / "videos").exists()


def test_video_needs_no_logger(tmp_path: Path) -> None:
    train(tmp_path, VideoCallback(toy_run(), every_n_steps=6, dirpath=tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "step_6.gif").exists()


def test_throughput_is_logged_at_its_period(tmp_path: Path) -> None:
    events = train_with_tensorboard(tmp_path, ThroughputCallback(toy_run(), every_n_steps=4), log_every_n_steps=7)
    assert steps(events, "throughput/windows_per_second") == [4, 8, 10]
    for windows, batches in zip(
        events.Scalars("throughput/windows_per_second"), events.Scalars("throughput/steps_per_second"), strict=True
    ):
        assert windows.value == pytest.approx(8 * batches.value, rel=1e-5)
    assert all(0 <= event.value <= 1 for event in events.Scalars("throughput/data_wait_share"))
    assert events.Scalars("throughput/peak_memory_mb")[-1].value == pytest.approx(
        peak_memory_mb(torch.device("cpu")), rel=0.5
    )


def test_peak_memory_knows_that_macos_counts_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(platform: str) -> float:
        monkeypatch.setattr("callbacks.throughput.sys.platform", platform)
        return peak_memory_mb(torch.device("cpu"))

    assert peak("linux") == pytest.approx(1024 * peak("darwin"), rel=0.1)


def test_a_slow_loader_shows_as_waiting_and_slow_callbacks_do_not(tmp_path: Path, monkeypatch) -> None:
    """A clock that only moves where time is spent: 3 s a fetch, 1 s a training step, 100 s a callback."""
    now = [0.0]
    monkeypatch.setattr("callbacks.throughput.time.perf_counter", lambda: now[0])

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> torch.Tensor:
            now[0] += 3.0
            return torch.ones(3, 4)

    class Slow(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            now[0] += 1.0

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            now[0] += 100.0

    trainer = quiet_trainer(
        max_steps=4,
        folder=tmp_path,
        callbacks=[ThroughputCallback(toy_run(global_batch_size=1), every_n_steps=4), Slow()],
    )
    profiler = trainer.profiler
    trainer.fit(ToyModule(), torch.utils.data.DataLoader(Rows(), batch_size=1))
    assert float(trainer.callback_metrics["throughput/data_wait_share"]) == pytest.approx(0.75)
    assert float(trainer.callback_metrics["throughput/windows_per_second"]) == pytest.approx(0.25)
    assert trainer.profiler is profiler
