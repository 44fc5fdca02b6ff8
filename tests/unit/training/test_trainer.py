"""Callbacks and loggers are made from their nodes as their yaml specifies."""

from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from callbacks.context import RunContext
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.training.trainer import make_callbacks, make_loggers
from tests.fixtures.toy_world import ToyEnv, toy_run

MINE = __name__


class Told(Callback):
    """A user's callback that wants to know the run."""

    def __init__(self, run: RunContext, answer: int) -> None:
        self.run, self.answer = run, answer


class Player(Told):
    needs_environment = True


def made(*typed: str, run: RunContext | None = None) -> list[str]:
    return [type(callback).__name__ for callback in callbacks_of(*typed, run=run)]


def callbacks_of(*typed: str, run: RunContext | None = None) -> list[Callback]:
    config = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", *typed]))
    return make_callbacks(config, run or toy_run())


OURS = [
    *("ThroughputCallback", "LearningRateCallback", "RolloutCallback", "VideoCallback", "IGDCallback", "Progress"),
    *("BestCheckpoint", "LastCheckpoint"),
]


def test_callbacks_run_in_the_order_of_the_yaml() -> None:
    assert made() == OURS


def test_null_leaves_one_out() -> None:
    assert made("callbacks.video=null", "callbacks.igd=null") == [
        name for name in OURS if name not in ("VideoCallback", "IGDCallback")
    ]


def test_what_is_typed_is_what_the_callback_gets() -> None:
    typed = ("callbacks.igd.every_n_steps=7", "callbacks.rollout.episodes=3")
    by_name = {type(callback).__name__: callback for callback in callbacks_of(*typed, run=toy_run(behavior_return=5.0))}
    assert by_name["IGDCallback"]._schedule.every_n_steps == 7
    assert by_name["RolloutCallback"].episodes == 3
    assert by_name["RolloutCallback"]._lines["rollout/behavior_return"] == 5.0


def test_those_that_need_an_environment_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    mine = (f"+callbacks.mine._target_={MINE}.Player", "+callbacks.mine._partial_=true", "+callbacks.mine.answer=1")
    assert made("rollout=none", *mine) == [name for name in OURS if name[:3] not in ("Rol", "Vid", "IGD")]
    assert capsys.readouterr().err == "rollout=none: nothing is played, callbacks left out: rollout, video, igd, mine\n"
    assert made(*mine) == [*OURS, "Player"]
    assert capsys.readouterr().err == ""


def test_a_callback_of_somebody_else_is_ready_or_is_told_the_run() -> None:
    ready = ("+callbacks.mine._target_=lightning.pytorch.callbacks.LearningRateMonitor",)
    monitor = callbacks_of(*ready, "+callbacks.mine.logging_interval=step")[-1]
    assert isinstance(monitor, LearningRateMonitor)
    assert monitor.logging_interval == "step"
    run = toy_run()
    told = (f"+callbacks.mine._target_={MINE}.Told", "+callbacks.mine._partial_=true", "+callbacks.mine.answer=42")
    mine = callbacks_of(*told, run=run)[-1]
    assert isinstance(mine, Told)
    assert (mine.run, mine.answer) == (run, 42)


def test_a_value_that_a_callback_refuses_is_one_line() -> None:
    for key in ("callbacks.igd.every_n_steps", "callbacks.learning_rate.every_n_steps"):
        with pytest.raises(UserError, match=r"every_n_steps=0 must be at least 1"):
            made(f"{key}=0")


def test_a_logger_is_told_where_to_save_or_is_ready(tmp_path: Path) -> None:
    nodes: dict[str, Any] = {
        "told": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "_partial_": True, "name": ""},
        "nothing": None,
        "ready": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "elsewhere"},
    }
    told, ready = make_loggers({"logger": nodes}, toy_run(ToyEnv(), folder=tmp_path))
    assert isinstance(told, TensorBoardLogger)
    assert isinstance(ready, CSVLogger)
    assert (Path(told.save_dir), Path(ready.save_dir)) == (tmp_path, Path("elsewhere"))
