"""A run's folder: where it is, whether it can go on, and what it leaves behind.

<run_dir>/
    config.yaml                 the resolved configuration
    checkpoints/last.ckpt       everything needed to go on
    checkpoints/best.ckpt       the best score on the selection seeds
    events.out.tfevents.*       TensorBoard
    results.json                written last: a folder that has it is finished
"""

import itertools
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dof_lightning import files
from dof_lightning.config.identity import YOUNGER, config_hash, leaves
from dof_lightning.errors import UserError
from dof_lightning.moved import current_config
from dof_lightning.training import watchdog

RUN_DIR_VARIABLE = "DOF_RUN_DIR"
CHECKPOINT_VARIABLE = "DOF_CHECKPOINT"

RUNS = Path("runs")

# What a run may be continued with, and what of that it may not.
_MAY_CHANGE = (
    *("run_dir", "resume", "trust", "trainer", "callbacks", "logger", "checkpoint", "validation", "distributed"),
    *("rollout.episodes", "rollout.every_n_steps", "data.root", "data.path", "data.num_workers"),
    *("data.heldout_windows", "data.source.root", "data.module.num_workers", "data.module.heldout_windows"),
    *(f"choices.{group}" for group in ("trainer", "callbacks", "logger", "debug", "tuned", "experiment")),
)
_KEPT = ("trainer.accumulate_grad_batches", "trainer.precision")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files in a run's folder.

    Attributes:
        path: the folder, which may not exist yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """`config.yaml`."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best score on the selection seeds."""
        return self.checkpoints / "best.ckpt"

    @property
    def results(self) -> Path:
        """`results.json`."""
        return self.path / "results.json"

    @property
    def has_run(self) -> bool:
        """Whether something has been trained here."""
        return any(path.exists() for path in (self.results, self.last, self.best))

    def read_config(self) -> dict[str, Any] | None:
        """The stored configuration in the names of today, None where there is none to read."""
        try:
            stored = yaml.safe_load(self.config.read_text())
        except (OSError, yaml.YAMLError):
            return None
        return current_config(stored) if isinstance(stored, dict) else None

    def is_finished(self, plain: Mapping[str, Any]) -> bool:
        """Whether there is nothing left to do for this configuration.

        Raises:
            UserError: what is finished here is another run.
        """
        if not self.results.exists():
            return False
        stored = self.read_config() or {}
        if config_hash(stored) == config_hash(plain):
            return True
        if json.loads(self.results.read_text())["steps"] < plain["trainer"]["max_steps"]:
            return False
        if difference := _other_run(stored, plain):
            raise UserError(f"{self.path} holds another run, a finished one: {difference}; choose another run_dir=")
        return True

    def open(self, plain: Mapping[str, Any]) -> None:
        """Creates the folder and stores the configuration; results of a shorter run are dropped."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.results.unlink(missing_ok=True)  # before: another rank that looks meanwhile must not find a finished run
        files.write_atomically(self.config, yaml.safe_dump(dict(plain), sort_keys=False))

    def discard_if_empty(self) -> None:
        """Removes a folder that was claimed for a run that never began, and empty ones of ours above it."""
        above = [parent for parent in self.path.parents if parent.is_relative_to(RUNS)]
        for folder in (self.path, *above):
            if not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()

    def lock(self) -> bool:
        """Claims the folder until this process ends, however it ends; False where another process has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return files.hold(self.path)
        except OSError as error:
            raise UserError(
                f"run_dir={self.path} cannot be made a folder ({error.strerror}); choose another"
            ) from error


@dataclass(frozen=True)
class Start:
    """Where a run lives and what it goes on from.

    Attributes:
        folder: the run's folder.
        checkpoint: what to go on from; None: from the beginning.
        finished: there is nothing to do.
    """

    folder: RunFolder
    checkpoint: Path | None
    finished: bool = False


def find_start(plain: Mapping[str, Any]) -> Start:
    """Decides the run's folder and checkpoint, the same in every process of the run.

    Processes started by Lightning are told by the first one through the environment; those of torchrun or SLURM all
    look into the `run_dir` they were given.

    Raises:
        UserError: `resume` leads nowhere, `run_dir` is needed, in use, or holds another run.
    """
    rank, is_told = external_rank(), bool(os.environ.get(RUN_DIR_VARIABLE))
    if is_told and rank is None and os.environ.get("LOCAL_RANK", "0") != "0":
        told = os.environ[CHECKPOINT_VARIABLE]
        return Start(RunFolder(Path(os.environ[RUN_DIR_VARIABLE])), Path(told) if told else None)
    if rank is not None and plain["run_dir"] is None:
        raise UserError("run_dir= is needed under torchrun or SLURM, so that every process writes to the same folder")
    start = _look_up(plain)
    if not start.finished and not rank:
        require_claim(start.folder)
    os.environ[watchdog.LAUNCHER_VARIABLE] = str(os.getpid())
    os.environ[RUN_DIR_VARIABLE] = str(start.folder.path.resolve())
    os.environ[CHECKPOINT_VARIABLE] = str(start.checkpoint.resolve()) if start.checkpoint else ""
    return start


def _other_run(stored: Mapping[str, Any], plain: Mapping[str, Any]) -> str | None:
    """What makes a configuration another run than the stored one; keys of other versions do not."""
    ours, theirs = dict(leaves(plain)), dict(leaves({**YOUNGER, **stored}))
    for key in (key for key in theirs if key in ours):
        free = key not in _KEPT and any(key == part or key.startswith(f"{part}.") for part in _MAY_CHANGE)
        if not free and ours[key] != theirs[key]:
            return f"{key} is {theirs[key]!r} there, {ours[key]!r} here"
    return None


def is_first_process() -> bool:
    """Whether this process is the run's rank zero, before any process group exists."""
    rank = external_rank()
    return not rank and (rank is not None or os.environ.get("LOCAL_RANK", "0") == "0")


def external_rank() -> int | None:
    """The rank given by torchrun or SLURM, None where neither started this process."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"])
    return None


_claimed: set[Path] = set()


def claim(folder: RunFolder) -> bool:
    """Locks a folder for this process, once; False where another process has it."""
    path = folder.path.resolve()
    if path not in _claimed and not folder.lock():
        return False
    _claimed.add(path)
    return True


def require_claim(folder: RunFolder) -> None:
    """Locks a folder for this process, once.

    Raises:
        UserError: another process has it.
    """
    if not claim(folder):
        raise UserError(f"run_dir={folder.path} is in use by another process; choose another run_dir=")


def _look_up(plain: Mapping[str, Any]) -> Start:
    resume, run_dir = plain["resume"], plain["run_dir"]
    if resume not in ("auto", "never"):
        return _from_path(Path(resume), plain)
    if run_dir is not None:
        return _in_folder(RunFolder(Path(run_dir)), plain)
    if resume == "auto":
        resumable = [folder for folder in unfinished(_runs_folder(plain), plain) if folder.last.exists()]
        for folder in sorted(resumable, key=lambda folder: folder.last.stat().st_mtime, reverse=True):
            if claim(folder):
                return Start(folder, folder.last)
    return Start(fresh_folder(_runs_folder(plain)), None)


def _from_path(path: Path, plain: Mapping[str, Any]) -> Start:
    checkpoint = RunFolder(path).last if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"resume={path}: there is no checkpoint; use auto, never, or the path of a .ckpt or run folder")
    own = RunFolder(checkpoint.parent.parent)
    if plain["run_dir"] is not None and Path(plain["run_dir"]).resolve() != own.path.resolve():
        return _branch_off(checkpoint, RunFolder(Path(plain["run_dir"])), plain)
    if plain["run_dir"] is None and own.read_config() is None:
        return Start(fresh_folder(_runs_folder(plain)), checkpoint)
    return Start(own, checkpoint, finished=own.is_finished(plain))


def _branch_off(checkpoint: Path, folder: RunFolder, plain: Mapping[str, Any]) -> Start:
    """Goes on from another run's checkpoint; typed again after an interruption, from where that got to."""
    if not folder.has_run:
        return Start(folder, checkpoint)
    if config_hash(folder.read_config() or {}) == config_hash(plain):
        return _in_folder(folder, dict(plain) | {"resume": "auto"})
    raise UserError(f"run_dir={folder.path} holds another run than resume={checkpoint}; choose another run_dir=")


def _in_folder(folder: RunFolder, plain: Mapping[str, Any]) -> Start:
    if plain["resume"] == "never":
        if folder.has_run:
            raise UserError(f"run_dir={folder.path} holds a run already; use resume=auto or choose another run_dir=")
        return Start(folder, None)
    return Start(folder, folder.last if folder.last.exists() else None, finished=folder.is_finished(plain))


def unfinished(parent: Path, plain: Mapping[str, Any]) -> list[RunFolder]:
    """The folders below `parent` of this very configuration that have no results yet, the last name first."""
    wanted = config_hash(plain)
    folders = [RunFolder(path.parent) for path in sorted(parent.glob("*/config.yaml"), reverse=True)]
    open_ones = [folder for folder in folders if not folder.results.exists()]
    return [f for f in open_ones if (stored := f.read_config()) is not None and config_hash(stored) == wanted]


def _runs_folder(plain: Mapping[str, Any]) -> Path:
    return RUNS / plain["choices"]["experiment"] / plain["choices"]["algorithm"]


def fresh_folder(parent: Path) -> RunFolder:
    """Makes a folder named after the time."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count():
        path = parent / (name if number == 0 else f"{name}_{number}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)  # claims the name against runs that start in the same second
            return RunFolder(path)
    raise AssertionError
