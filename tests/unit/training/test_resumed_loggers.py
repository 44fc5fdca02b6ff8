"""Loggers of one word: a resumed run continues their files and runs; a missing package is one line."""

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers import mlflow as mlflow_of_lightning
from lightning.pytorch.loggers import wandb as wandb_of_lightning

from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.training.loggers import announce_parameters, log_hyperparameters
from dof_lightning.training.resumed_loggers import ResumedCSVLogger, ResumedWandbLogger, resume_from
from dof_lightning.training.trainer import make_loggers
from tests.fixtures.toy_world import ToyEnv, toy_run

EXPERIMENT = "experiment=mpe_spread_random"


def _config(logger: str) -> dict[str, Any]:
    cfg = configuration.compose([EXPERIMENT, f"logger={logger}"])
    checks.check(cfg)
    return configuration.to_plain(cfg)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def _csv(folder: Path, resumed_from_step: int | None) -> ResumedCSVLogger:
    logger = ResumedCSVLogger(folder)
    resume_from([logger], resumed_from_step)
    return logger


def test_rows_are_on_the_disk_at_once_and_a_resumed_run_continues_them(tmp_path: Path) -> None:
    first = _csv(tmp_path, None)
    for step in (10, 20, 30):
        first.log_metrics({"loss": step / 10}, step=step)
    first.log_metrics({"rollout/return_mean": 5.0}, step=30)
    before = _rows(tmp_path)  # as a kill leaves it: nothing was finalised
    assert [row["step"] for row in before] == ["10", "20", "30", "30"]
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4.0")  # a row that a kill has cut short
    again = _csv(tmp_path, 20)
    again.log_metrics({"loss": 3.0}, step=30)
    again.log_metrics({"heldout": 7.0}, step=30)
    assert _rows(tmp_path) == [*before[:2], before[2], {"heldout": "7.0", "step": "30"}]
    assert not list(tmp_path.glob(".*")), "drafts stay behind"


def test_a_fresh_run_starts_a_file_of_its_own(tmp_path: Path) -> None:
    _csv(tmp_path, None).log_metrics({"loss": 1.0}, step=10)
    _csv(tmp_path, None).log_metrics({"loss": 2.0}, step=10)
    assert _rows(tmp_path) == [{"loss": "2.0", "step": "10"}]


def test_several_loggers_get_the_same_final_numbers(tmp_path: Path) -> None:
    config = _config("[tensorboard,csv]")
    loggers = make_loggers(config, toy_run(ToyEnv(), folder=tmp_path))
    assert [type(logger) for logger in loggers] == [TensorBoardLogger, ResumedCSVLogger]
    announce_parameters(loggers, config)
    assert "algorithm: dof_policy" in (tmp_path / "hparams.yaml").read_text()
    log_hyperparameters(loggers, config, {"last": {"return_mean": 1.5}}, None, step=40)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert _rows(tmp_path) == [{"final/last_return_mean": "1.5", "step": "40"}]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = _config(name)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError) as error:
        make_loggers(config, toy_run(ToyEnv(), folder=tmp_path))
    assert str(error.value) == f"logger={name} needs a package: pip install 'dof-lightning[{name}]'"


class _Run:
    """A run of the stub of wandb."""

    def __init__(self, **told: Any) -> None:
        self.told, self.id, self.config, self.logged, self.finished = told, told["id"], {}, [], False
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.logged.append(values))

    def log(self, values: dict[str, Any]) -> None:
        assert not self.finished
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[_Run]:
    """A stub of wandb; the runs that were opened."""
    opened: list[_Run] = []

    def init(**told: Any) -> _Run:
        if told["project"] == "nobody":
            raise RuntimeError("No API key\nconfigured.")
        opened.append(_Run(**told))
        return opened[-1]

    stubs: dict[str, dict[str, Any]] = {
        "wandb": {"init": init, "run": None},
        "wandb.sdk": {},
        "wandb.sdk.lib": {"RunDisabled": type("RunDisabled", (), {})},
        "wandb.wandb_run": {"Run": _Run},
    }
    _install(monkeypatch, stubs)
    monkeypatch.setattr(wandb_of_lightning, "_WANDB_AVAILABLE", True)
    return opened


def _install(monkeypatch: pytest.MonkeyPatch, stubs: dict[str, dict[str, Any]]) -> None:
    for name, content in stubs.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: package)


def test_wandb_continues_its_run(tmp_path: Path, wandb: list[_Run]) -> None:
    config = _config("wandb")
    for step in (10, 20):
        (logger,) = make_loggers(config, toy_run(ToyEnv(), folder=tmp_path))
        assert len(wandb) == step // 10 - 1, "opened before anything is logged"
        announce_parameters([logger], config)
        logger.log_metrics({"loss": 1.0}, step=step)
    first, second = wandb
    assert first.told["dir"] == str(tmp_path)
    assert first.told["project"] == "dof-lightning"
    assert first.told["name"] == tmp_path.name
    assert first.id == second.id
    assert second.told["resume"] == "allow"
    assert first.logged[0]["algorithm"] == "dof_policy"
    assert second.logged[1] == {"loss": 1.0, "trainer/global_step": 20}
    log_hyperparameters([logger], config, {"last": {"return_mean": 1.5}}, None, step=20)
    assert second.logged[-1] == {"final/last_return_mean": 1.5, "trainer/global_step": 20}
    assert second.finished, "another run of the same process would be logged into it"
    assert make_loggers(config, toy_run(ToyEnv(), folder=tmp_path / "other"))[0].version != first.id


def test_a_server_that_refuses_is_one_line(tmp_path: Path, wandb: list[_Run]) -> None:
    with pytest.raises(UserError, match=r"^logger=wandb: No API key configured\.; type `wandb login`, or"):
        ResumedWandbLogger(tmp_path, project="nobody").log_metrics({"loss": 1.0})
    assert not (tmp_path / "wandb.id").exists()


class _Client:
    """The stub of MLflow's client: one server, whatever the address."""

    runs: dict[str, dict[str, Any]]

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(experiment_id="1", run_id=run_id), data=self.runs[run_id])

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def create_run(self, experiment_id: str, tags: dict[str, str]) -> Any:
        run_id = f"run {len(self.runs)}"
        self.runs[run_id] = {"tags": tags, "metrics": [], "params": [], "uri": self.uri}
        return self.get_run(run_id)

    def log_batch(self, run_id: str, **given: list[tuple]) -> None:
        for kind, values in given.items():
            self.runs[run_id][kind].extend(values)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.runs[run_id]["status"] = status


def test_mlflow_continues_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Client, "runs", {}, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    entities = {
        "Param": lambda key, value: (key, value),
        "Metric": lambda key, value, timestamp, step: (key, value, step),
    }
    stubs: dict[str, dict[str, Any]] = {
        "mlflow": {"set_tracking_uri": lambda uri: None},
        "mlflow.tracking": {"MlflowClient": _Client, "context": SimpleNamespace()},
        "mlflow.entities": entities,
        "mlflow.utils": {},
        "mlflow.utils.mlflow_tags": {"MLFLOW_RUN_NAME": "mlflow.runName"},
    }
    _install(monkeypatch, stubs)
    monkeypatch.setattr(mlflow_of_lightning, "_MLFLOW_AVAILABLE", True)
    config = _config("mlflow")
    for step, steps in ((10, 4000), (20, 8000)):
        config["trainer"]["max_steps"] = steps
        (logger,) = make_loggers(config, toy_run(ToyEnv(), folder=tmp_path))
        announce_parameters([logger], config)
        logger.log_metrics({"loss": 1.0}, step=step)
    log_hyperparameters([logger], config, {"last": {"return_mean": 1.5}}, None, step=20)
    (run,) = _Client.runs.values()
    assert run["metrics"] == [("loss", 1.0, 10), ("loss", 1.0, 20), ("final/last_return_mean", 1.5, 20)]
    assert [value for key, value in run["params"] if key == "steps"] == ["4000.0"], "MLflow refuses another value"
    assert run["status"] == "FINISHED"
    assert run["tags"] == {"mlflow.runName": tmp_path.name}
    assert run["uri"] == "sqlite:///mlflow.db"
