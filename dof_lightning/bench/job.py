"""One run of a suite, in a process of its own: train, time a decision, add a row to the store.

`python -m dof_lightning.bench.job suite=<name or path> job=<name> store=<folder> runs=<folder> [keep=true]`
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_modules.source import DatasetSource
from data_modules.storage.manifest import read_manifest
from dof_lightning.bench.suite import Job, read_suite
from dof_lightning.config import checks, messages
from dof_lightning.config import compose as configuration
from dof_lightning.config.command_line import config_dir_flags, take, without_config_dirs
from dof_lightning.config.identity import config_hash
from dof_lightning.errors import UserError
from dof_lightning.report.store import Record, ResultsStore
from dof_lightning.spec import fingerprint
from dof_lightning.training.run_folder import RunFolder, claim

BUSY = 75  # exit code: another process is doing this run (EX_TEMPFAIL), or has done it meanwhile


def compose(job: Job, runs: Path) -> DictConfig:
    """Composes the configuration of a run, in its folder `<runs>/<suite>/<name>`.

    Raises:
        UserError: the configuration cannot be composed.
    """
    cfg = configuration.compose(job.typed)
    cfg.run_dir = str(run_folder(job, runs))
    checks.check(cfg)
    return cfg


def run_folder(job: Job, runs: Path) -> Path:
    """The folder of a run."""
    return runs / job.suite / job.name


def command(which: str, name: str, store: Path, runs: Path, keep: bool) -> list[str]:
    """The command of one run's process; `which` is the suite as typed, the others are as in `perform`."""
    arguments = {"suite": which, "job": name, "store": store, "runs": runs, "keep": "true" if keep else "false"}
    words = [*(f"{key}={value}" for key, value in arguments.items()), *config_dir_flags(sys.argv[1:])]
    return [sys.executable, "-m", "dof_lightning.bench.job", *words]


def perform(job: Job, store: Path, runs: Path, keep: bool = True) -> None:
    """Trains, and adds the row to the store; finished steps are skipped.

    Args:
        job: the run.
        store: folder of the results store.
        runs: folder of run folders.
        keep: whether to keep the run folder; if not, it is deleted once its row is in the store.

    Raises:
        UserError: the configuration or the data are invalid.
        SystemExit: another process is doing or has done the run (`BUSY`), or a signal has ended the training.
    """
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.report.record import record_of
    from dof_lightning.studies.scores import decision_ms
    from dof_lightning.training import run as training

    cfg = compose(job, runs)
    plain = configuration.to_plain(cfg)
    dataset = dataset_of(plain)
    folder = _own_folder(run_folder(job, runs), config_hash(plain), dataset)
    cfg.run_dir = str(folder.path)
    if not claim(folder):
        sys.exit(BUSY)
    if folder.read_config() is None and is_stored(plain, dataset, ResultsStore(store).records()):
        folder.discard_if_empty()
        sys.exit(BUSY)
    training.run(cfg, job.typed)
    checkpoint = checkpoints.read(folder.path)
    timed = round(decision_ms(checkpoint, checkpoint.config), 4)
    record, curve = record_of(
        folder.path, suite=job.suite, variant=job.variant, decision_ms=timed, typed=job.reproduces
    )
    added = ResultsStore(store).append(record, curve)
    if not keep:
        shutil.rmtree(folder.path)
    if not added:
        sys.exit(BUSY)


def dataset_of(plain: Mapping[str, Any]) -> str | None:
    """The fingerprint of a run's data, from their recipe or from the stored data; None if it is in neither."""
    where = plain["data"]["path"]
    if not where:
        source: DatasetSource = configuration.build(plain["data"]["source"])
        if (recipe := getattr(source, "recipe", None)) is not None:
            return fingerprint(recipe)
        where = source.path
    try:
        return read_manifest(where).spec.fingerprint
    except UserError:  # the run itself reports the fix
        return None


def is_stored(plain: Mapping[str, Any], dataset: str | None, records: Sequence[Record]) -> bool:
    """Whether a run of this configuration on data of this fingerprint (None: on any) has a row."""
    hashed = config_hash(plain)
    return any(row.config_hash == hashed and dataset in (None, row.dataset_fingerprint) for row in records)


def _own_folder(path: Path, hashed: str, dataset: str | None) -> RunFolder:
    """The run's folder; another one if that contains a run of other settings or data."""
    folder = RunFolder(path)
    stored = folder.read_config()
    alike = stored is None or config_hash(stored) == hashed
    if alike and (dataset is None or _dataset_there(folder) in (None, dataset)):
        return folder
    return RunFolder(path.with_name("__".join(filter(None, (path.name, hashed, dataset)))))


def _dataset_there(folder: RunFolder) -> str | None:
    """The fingerprint of the data that a run was trained on; None if nothing was trained."""
    from dof_lightning.checkpoints import checkpoint as checkpoints

    return checkpoints.read(folder.last).spec.fingerprint if folder.last.exists() else None


def run(tails: list[str]) -> None:
    """Performs the run that the command line names.

    Raises:
        UserError: a key is missing.
    """
    values: dict[str, Any] = {}
    tails = without_config_dirs(tails)
    for key in ("suite", "job", "store", "runs", "keep"):
        values[key], tails = take(tails, key)
    job = read_suite(values["suite"]).job(values["job"])
    perform(job, Path(values["store"]), Path(values["runs"]), keep=values["keep"] != "false")


if __name__ == "__main__":
    sys.exit(messages.exit_with_one_line(lambda: run(sys.argv[1:])))
