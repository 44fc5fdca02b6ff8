"""A run's folder: its location, its files, and whether the run in it can be resumed.

<run_dir>/
    config.yaml                 the resolved configuration
    checkpoints/last.ckpt       everything needed to resume
    checkpoints/best.ckpt       the best score on the selection seeds
    events.out.tfevents.*       TensorBoard
    results.json                written last: a folder that has it is finished
"""

import itertools
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dof_lightning import files
from dof_lightning.config.identity import config_hash, leaves, meant_before
from dof_lightning.config.stored import read_stored
from dof_lightning.errors import UserError
from dof_lightning.training.results_file import read_results_of_run

RUN_DIR_VARIABLE = "DOF_RUN_DIR"
CHECKPOINT_VARIABLE = "DOF_CHECKPOINT"

RUNS = Path("runs")

# The keys that may change if a run is resumed, and the keys below them that may not.
_MAY_CHANGE = (
    *("run_dir", "resume", "trust", "trainer", "callbacks", "logger", "checkpoint", "validation", "distributed"),
    *("rollout.episodes", "rollout.every_n_steps", "rollout.until_plateau"),
    *("data.root", "data.path", "data.num_workers", "data.heldout_windows"),
    *("data.source.root", "data.module.num_workers", "data.module.heldout_windows"),
    *(f"choices.{group}" for group in ("trainer", "callbacks", "logger", "debug", "tuned", "experiment")),
)
_KEPT = ("trainer.accumulate_grad_batches", "trainer.precision")


@dataclass(frozen=True)
class RunFolder:
    """The files in a run's folder.

    Attributes:
        path: the folder, which may not exist yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, `config.yaml`."""
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
    def best_or_last(self) -> Path:
        """The checkpoint to evaluate: the best, or the newest if none was selected."""
        return self.best if self.best.exists() else self.last

    @property
    def results(self) -> Path:
        """The results, `results.json`."""
        return self.path / "results.json"

    @property
    def has_run(self) -> bool:
        """Whether something has been trained here."""
        return any(path.exists() for path in (self.results, self.last, self.best))

    def read_config(self) -> dict[str, Any] | None:
        """Reads the stored configuration, in today's names; None if there is none.

        Raises:
            UserError: it is damaged.
        """
        if not self.config.exists():
            return None
        try:
            return read_stored(self.config)
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.config} is damaged: {error}; repair it, or continue in another folder with "
                f"resume={self.last} run_dir=<another>"
            ) from error

    def check_ours(self) -> None:
        """Refuses a folder without a run whose `config.yaml` is somebody else's, which opening would replace.

        Raises:
            UserError: it is.
        """
        if self.has_run or not self.config.exists():
            return
        try:
            read_stored(self.config)
        except (ValueError, OSError) as error:
            raise UserError(
                f"run_dir={self.path} contains a config.yaml that is no run's ({error}); choose another run_dir="
            ) from error

    def is_finished(self, plain: Mapping[str, Any]) -> bool:
        """Whether there is nothing left to do for this configuration.

        Raises:
            UserError: the folder contains another finished run, or one that cannot be trained further.
        """
        if not self.results.exists():
            return False
        stored, steps = self.read_config(), read_results_of_run(self.results)["steps"]
        if stored is None:
            raise UserError(f"{self.path} contains results of a run without its config.yaml; choose another run_dir=")
        if config_hash(stored) == config_hash(plain):
            return True
        if steps < plain["trainer"]["max_steps"]:
            if not self.last.exists():
                raise UserError(
                    f"{self.path} contains the results of {steps} steps, but no {self.last.name} to train further "
                    "from; choose another run_dir="
                )
            return False
        if difference := _other_run(stored, plain):
            raise UserError(f"{self.path} contains another, finished run: {difference}; choose another run_dir=")
        return True

    def open(self, plain: Mapping[str, Any]) -> None:
        """Creates the folder and stores the configuration; results of a shorter run are dropped."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.results.unlink(missing_ok=True)  # first, so that no other rank finds a finished run
        files.write_atomically(self.config, yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True))

    def discard_if_empty(self) -> None:
        """Removes a folder claimed for a run that never began, and empty folders of ours above it."""
        above = [parent for parent in self.path.parents if parent.is_relative_to(RUNS)]
        for folder in (self.path, *above):
            if not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()

    def lock(self) -> bool:
        """Claims the folder until this process ends in any way; returns False if another process has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return files.hold(self.path)
        except OSError as error:
            raise UserError(
                f"run_dir={self.path} cannot be created as a folder ({error.strerror}); choose another"
            ) from error


def _other_run(stored: Mapping[str, Any], plain: Mapping[str, Any]) -> str | None:
    """Describes the first difference of a configuration from the stored one; keys of other versions are ignored."""
    ours, theirs = dict(leaves(plain)), dict(leaves(stored))
    theirs |= {key: value for key, value in leaves(meant_before(plain)) if key not in theirs}
    for key in (key for key in theirs if key in ours):
        free = key not in _KEPT and any(key == part or key.startswith(f"{part}.") for part in _MAY_CHANGE)
        if not free and ours[key] != theirs[key]:
            return f"{key} is {theirs[key]!r} there, {ours[key]!r} here"
    return None


def is_first_process() -> bool:
    """Whether this process is the run's rank zero, before any process group exists."""
    rank = external_rank()
    return not rank and (rank is not None or os.environ.get("LOCAL_RANK", "0") == "0")


def is_child() -> bool:
    """Whether Lightning has started this process as a further rank, by the command of the first one."""
    told = bool(os.environ.get(RUN_DIR_VARIABLE))
    return told and external_rank() is None and os.environ.get("LOCAL_RANK", "0") != "0"


def external_rank() -> int | None:
    """The rank given by torchrun or SLURM, None if neither started this process.

    In an interactive shell of SLURM nobody has, whatever its variables say; Lightning sees it alike.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ and not interactive:
        return int(os.environ["SLURM_PROCID"])
    return None


_claimed: set[Path] = set()


def claim(folder: RunFolder) -> bool:
    """Locks a folder for this process, once; returns False if another process has it."""
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


def unfinished(parent: Path, plain: Mapping[str, Any]) -> list[RunFolder]:
    """The folders below `parent` of this configuration that have no results yet, the last name first.

    A damaged one is skipped, and reported in one line.
    """
    wanted = config_hash(plain)
    folders = [RunFolder(path.parent) for path in sorted(parent.glob("*/config.yaml"), reverse=True)]
    found = []
    for folder in (folder for folder in folders if not folder.results.exists()):
        try:
            if config_hash(folder.read_config() or {}) == wanted:
                found.append(folder)
        except UserError as error:
            pass_over(folder, error)
    return found


def pass_over(folder: RunFolder, error: UserError) -> None:
    """Reports why a folder cannot be resumed from."""
    if is_first_process():
        sys.stderr.write(f"resume=auto passes over {folder.path}: {error}\n")


def fresh_folder(parent: Path) -> RunFolder:
    """Makes a folder named after the current time."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count():
        path = parent / (name if number == 0 else f"{name}_{number}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)  # fails if a run that starts in the same second has the name
            return RunFolder(path)
    raise AssertionError
