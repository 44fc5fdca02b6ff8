"""The start of a run: its folder, the checkpoint it resumes from, and the command that trains it further."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.checkpoints.location import newest_below
from dof_lightning.config.command_line import for_hydra
from dof_lightning.config.compose import program, task_name
from dof_lightning.config.identity import config_hash, leaves
from dof_lightning.errors import UserError
from dof_lightning.training import watchdog
from dof_lightning.training.run_folder import (
    CHECKPOINT_VARIABLE,
    RUN_DIR_VARIABLE,
    RUNS,
    RunFolder,
    claim,
    external_rank,
    fresh_folder,
    is_child,
    pass_over,
    require_claim,
    unfinished,
)
from dof_lightning.training.several import key_of

_TYPED_ANEW = ("run_dir", "resume", "trainer.max_steps", "trainer.max_time")  # by the command that trains further


@dataclass(frozen=True)
class Start:
    """A run's folder and the checkpoint it resumes from.

    Attributes:
        folder: the run's folder.
        checkpoint: the checkpoint to resume from; None means a start from the beginning.
        finished: whether there is nothing left to do.
    """

    folder: RunFolder
    checkpoint: Path | None
    finished: bool = False


def find_start(plain: Mapping[str, Any]) -> Start:
    """Decides the run's folder and checkpoint, the same in every process of the run.

    Processes started by Lightning get both from the first one through environment variables; those of torchrun or
    SLURM all read the `run_dir` they were given.

    Raises:
        UserError: `resume` leads nowhere; `run_dir` is missing, in use, or contains another run.
    """
    rank = external_rank()
    if is_child():
        inherited = os.environ[CHECKPOINT_VARIABLE]
        return Start(RunFolder(Path(os.environ[RUN_DIR_VARIABLE])), Path(inherited) if inherited else None)
    if rank is not None and plain["run_dir"] is None:
        raise UserError("run_dir= is needed under torchrun or SLURM, so that every process writes to the same folder")
    start = _look_up(plain)
    if not start.finished and not rank:
        require_claim(start.folder)
    os.environ[watchdog.LAUNCHER_VARIABLE] = str(os.getpid())
    os.environ[RUN_DIR_VARIABLE] = str(start.folder.path.resolve())
    os.environ[CHECKPOINT_VARIABLE] = str(start.checkpoint.resolve()) if start.checkpoint else ""
    return start


def _look_up(plain: Mapping[str, Any]) -> Start:
    resume, run_dir = plain["resume"], plain["run_dir"]
    if resume not in ("auto", "never"):
        return _from_path(Path(resume), plain)
    if run_dir is not None:
        return _in_folder(RunFolder(Path(run_dir)), plain)
    if resume == "auto":
        resumable = [folder for folder in unfinished(_runs_folder(plain), plain) if folder.last.exists()]
        for folder in sorted(resumable, key=lambda folder: folder.last.stat().st_mtime, reverse=True):
            if _is_whole(folder) and claim(folder):
                return Start(folder, folder.last)
    return Start(fresh_folder(_runs_folder(plain)), None)


def _from_path(path: Path, plain: Mapping[str, Any]) -> Start:
    checkpoint = RunFolder(path).last if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(
            f"resume={path}: there is no checkpoint; use auto, never, or the path of a .ckpt or run folder"
            f"{newest_below(path, 'resume')}"
        )
    own = RunFolder(checkpoint.parent.parent)
    if plain["run_dir"] is not None and Path(plain["run_dir"]).resolve() != own.path.resolve():
        return _branch_off(checkpoint, RunFolder(Path(plain["run_dir"])), plain)
    if plain["run_dir"] is None and own.read_config() is None:
        return Start(fresh_folder(_runs_folder(plain)), checkpoint)
    return Start(own, checkpoint, finished=own.is_finished(plain))


def _branch_off(checkpoint: Path, folder: RunFolder, plain: Mapping[str, Any]) -> Start:
    """Continues another run's checkpoint in a new folder; typed again after an interruption, continues that folder."""
    if not folder.has_run:
        folder.check_ours()
        return Start(folder, checkpoint)
    if config_hash(folder.read_config() or {}) == config_hash(plain):
        return _in_folder(folder, dict(plain) | {"resume": "auto"})
    raise UserError(f"run_dir={folder.path} contains another run than resume={checkpoint}; choose another run_dir=")


def _in_folder(folder: RunFolder, plain: Mapping[str, Any]) -> Start:
    folder.check_ours()
    if plain["resume"] == "never":
        if folder.has_run:
            raise UserError(f"run_dir={folder.path} already contains a run; use resume=auto or choose another run_dir=")
        return Start(folder, None)
    return Start(folder, folder.last if folder.last.exists() else None, finished=folder.is_finished(plain))


def _is_whole(folder: RunFolder) -> bool:
    """Whether the folder's last checkpoint can be read; one that cannot is skipped, and reported."""
    try:
        checkpoints.read(folder.last)
    except UserError as error:
        pass_over(folder, error)
        return False
    return True


def _runs_folder(plain: Mapping[str, Any]) -> Path:
    return RUNS / task_name(plain) / plain["choices"]["algorithm"]


def set_aside_best(best: Path, plain: Mapping[str, Any], resumed: Path | None = None) -> None:
    """Renames a `best.ckpt` whose score was measured differently from future scores: they are not comparable.

    The best checkpoint is then selected anew, as if there were no `best.ckpt`.

    Args:
        best: the file of the run that is resumed.
        plain: the resolved configuration.
        resumed: the checkpoint that is resumed; None if there is none.

    Raises:
        UserError: the file cannot be read, or is itself to be resumed.
    """
    if not best.exists():
        return
    try:
        selected = checkpoints.read(best)
    except UserError as error:
        raise UserError(f"{best} is damaged; delete it, and the best is selected anew from here on") from error
    theirs, ours = _measured_by(selected.config), _measured_by(plain)
    changed = [key for key in ours if key in theirs and ours[key] != theirs[key]]  # keys of other versions are ignored
    if not changed:
        return
    kept = best.with_name(f"best_at_step_{selected.step}.ckpt")
    if resumed is not None and resumed.exists() and resumed.samefile(best):
        raise UserError(
            f"resume={best}: it was selected with {changed[0]}={theirs[changed[0]]}, it is {ours[changed[0]]} now, so "
            f"the best is selected anew; copy it to {kept.name} beside it, and resume that"
        )
    best.replace(kept)
    sys.stderr.write(
        f"best.ckpt was selected with {changed[0]}={theirs[changed[0]]}, it is {ours[changed[0]]} now: the best is "
        f"selected anew from here on, the earlier one is kept as {kept}\n"
    )


def _measured_by(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a score during training depends on, besides those that no resumed run may change."""
    callbacks = {key: plain["callbacks"].get(key) for key in ("rollout", "checkpoint")}
    parts = {"env": plain["env"], "rollout": {"episodes": plain["rollout"].get("episodes")}, "callbacks": callbacks}
    return {key: value for key, value in leaves(parts) if not key.endswith(("every_n_steps", "until_plateau"))}


def command_further(folder: Path, typed: Sequence[str], done: int, max_steps: int) -> list[str]:
    """The words of a command that trains a run for as long again.

    Args:
        folder: the run's folder.
        typed: the overrides that it was started with.
        done: optimiser steps so far.
        max_steps: optimiser steps that it was configured for.
    """
    dropped = (*_TYPED_ANEW, "rollout.until_plateau") if done < max_steps else _TYPED_ANEW  # it may have ended the run
    kept = [tail for tail in typed if key_of(tail) not in dropped]
    return [*program(), *kept, for_hydra("run_dir", folder), f"trainer.max_steps={max(2 * done, max_steps)}"]
