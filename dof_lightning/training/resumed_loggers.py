"""Loggers named by one word (`logger=csv|wandb|mlflow`), whose files and runs are continued by a resumed run.

Lightning's own loggers would start over: its CSV logger deletes the existing file, the others open a second run.
"""

import csv
import importlib.util
import io
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from dof_lightning import files
from dof_lightning.errors import UserError


class ResumedCSVLogger(CSVLogger):
    """Writes `metrics.csv` in the run's folder: a row per call, and a column per tag.

    Args:
        save_dir: the run's folder.

    Attributes:
        resumed_from_step: rows of later steps are dropped, as they are logged again; 0 for a fresh run.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=1)  # so that a kill loses no row
        self.resumed_from_step = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the file (Lightning hook)."""
        if self._experiment is None:
            self._experiment = _ResumedWriter(self.log_dir, self.resumed_from_step)
        return self._experiment  # type: ignore[return-value]


class _ResumedWriter(ExperimentWriter):
    """Appends to the rows of an earlier process up to `step`."""

    def __init__(self, log_dir: str, step: int) -> None:
        super().__init__(log_dir)
        if not Path(self.metrics_file_path).exists():
            return
        with open(self.metrics_file_path, newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if _is_until(row, step)]
            self.metrics_keys = list(reader.fieldnames or ())
        self._write(rows)

    def _check_log_dir_exists(self) -> None:
        """Does nothing: Lightning's would warn about an existing folder and delete its file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        self._write(rows)

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Replaces the file as a whole, so that a kill leaves the earlier one."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        files.write_atomically(Path(self.metrics_file_path), text.getvalue())


def _is_until(row: dict[str, Any], step: int) -> bool:
    """Reports whether a row is complete (a kill may have cut the last one) and of a step up to `step`."""
    written = str(row.get("step"))
    return None not in row.values() and written.isdecimal() and int(written) <= step


class ResumedWandbLogger(WandbLogger):
    """Logs to Weights & Biases; the run's id is kept in `<run folder>/wandb.id`.

    Args:
        save_dir: the run's folder, after which the run is named.
        project: the project of the run.
        offline: whether nothing is uploaded.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, save_dir: str | Path, project: str = "dof-lightning", offline: bool = False) -> None:
        _require("wandb")
        self._note = Path(save_dir) / "wandb.id"
        run_id = _noted(self._note) or uuid.uuid4().hex[:8]
        super().__init__(Path(save_dir).name, save_dir, id=run_id, project=project, offline=offline)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, which is opened at the first call (Lightning hook).

        Raises:
            UserError: it cannot be opened, for example without a login.
        """
        if self._experiment is None:
            _reach(
                "wandb",
                lambda: super(ResumedWandbLogger, self).experiment,
                "`wandb login`, or logger.wandb.offline=true",
            )
            files.write_atomically(self._note, str(self._id))
        return self._experiment

    def finish(self) -> None:
        """Closes the run: another run of the same process would be logged into it."""
        self.experiment.finish()


_ANOTHER = "logger.mlflow.tracking_uri=<another>"


class ResumedMLFlowLogger(MLFlowLogger):
    """Logs to MLflow; the run's id is kept in `<run folder>/mlflow.id`.

    Args:
        save_dir: the run's folder, after which the run is named.
        experiment_name: the experiment of the run.
        tracking_uri: address of a server or a database; None means that of MLFLOW_TRACKING_URI, else MLflow's default,
            `mlflow.db` in the working folder; recent versions refuse plain folders.

    Raises:
        UserError: mlflow is not installed, or cannot open what is named.
    """

    def __init__(
        self, save_dir: str | Path, experiment_name: str = "dof-lightning", tracking_uri: str | None = None
    ) -> None:
        _require("mlflow")
        self._note = Path(save_dir) / "mlflow.id"
        noted = _noted(self._note)
        self._has_parameters = noted is not None
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        name, start = Path(save_dir).name, super().__init__
        _reach("mlflow", lambda: start(experiment_name, run_name=name, tracking_uri=uri, run_id=noted), _ANOTHER)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client of the run, which is opened at the first call (Lightning hook).

        Raises:
            UserError: it cannot be opened, for example because the server is gone.
        """
        if not self._initialized:
            _reach("mlflow", lambda: super(ResumedMLFlowLogger, self).experiment, _ANOTHER)
            files.write_atomically(self._note, str(self._run_id))
        return self._mlflow_client

    def log_hyperparams(self, params: Any) -> None:
        """Logs the parameters once: MLflow refuses another value, such as more steps (Lightning hook)."""
        if not self._has_parameters:
            super().log_hyperparams(params)
            self._has_parameters = True


def resume_from(loggers: Sequence[Logger], step: int | None) -> None:
    """Sets the step from which the loggers of a run resume; None for a fresh run."""
    for logger in loggers:
        if isinstance(logger, ResumedCSVLogger):
            logger.resumed_from_step = step or 0


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package} needs a package: pip install 'dof-lightning[{package}]'")


def _noted(note: Path) -> str | None:
    return note.read_text(encoding="utf-8").strip() or None if note.exists() else None


def _reach(name: str, connect: Callable[[], Any], fix: str) -> None:
    try:
        connect()
    except Exception as error:  # the packages' own errors cannot be named without importing the packages
        raise UserError(f"logger={name}: {' '.join(str(error).split())}; type {fix}") from error
