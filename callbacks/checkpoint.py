"""Checkpoints that are complete or absent: `last.ckpt` to resume from, `best.ckpt` to act with."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.context import RunContext
from callbacks.finite import check_finite
from callbacks.step_schedule import Scheduled, owing
from dof_lightning.digest import load_tensors, sealed
from dof_lightning.errors import UserError
from dof_lightning.files import remove_drafts, write_atomically
from dof_lightning.schema import anything, many, mapping, real, record, text, whole

_log = logging.getLogger(__name__)

_OF_LIGHTNING = record(  # without these entries Lightning resumes from no checkpoint, with its own error
    {
        **dict.fromkeys(("state_dict", "loops", "callbacks"), mapping),
        **dict.fromkeys(("optimizer_states", "lr_schedulers"), many(anything)),
        **dict.fromkeys(("global_step", "epoch"), whole(0)),
        "pytorch-lightning_version": text,
    },
    others=anything,
)
_OF_ROLLOUTS = "rollout/"
_OF_BEST = record({"best_score": real, "best_step": whole(0)}, others=anything)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and replaces it in one move; loads tensors and plain containers only.

    A process killed while it saves leaves the old checkpoint as it was. If saving fails (disk full), training
    continues: a warning names the file and the cause, and the old checkpoint stays.

    Attributes:
        last_error: the reason why the latest save failed, None if it succeeded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_error: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Saves to a local path (Lightning's interface; `storage_options` have no meaning here)."""
        target = Path(path)
        self.last_error = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_drafts(target)  # only rank zero ever saves here
            write_atomically(target, lambda file: torch.save(sealed(checkpoint), file), sync=True)
        except (OSError, RuntimeError) as error:
            # torch's archive writer hides a failing write behind a RuntimeError of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            self.last_error = cause
            kept = "the previous one is kept" if target.exists() else "there is none yet"
            _log.warning("checkpoint %s was not saved (%s); %s, training continues", target, cause, kept)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Loads without running code from the file, whatever `weights_only` is.

        Raises:
            UserError: the file is missing, damaged, or contains more than tensors and plain containers.
        """
        advice = "choose another with resume=<path>, or start afresh with resume=never"
        try:
            content: dict[str, Any] = load_tensors(Path(path), map_location)
            if "state_dict" in content:
                _OF_LIGHTNING("", content)
            return content
        except FileNotFoundError as error:
            raise UserError(f"checkpoint {path} does not exist; {advice}") from error
        except Exception as error:  # a damaged file fails in many ways, inside zip, pickle and torch
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"checkpoint {path} cannot be read ({reason}); {advice}") from error


class LastCheckpoint(Scheduled, Checkpoint):
    """Saves `last.ckpt` every n optimiser steps, and at the last one if the training ends between two batches.

    Weights that are not finite are not saved, and end the training.

    Args:
        dirpath: the run's checkpoint folder.
        every_n_steps: optimiser steps between two saves.

    Attributes:
        saved_step: the optimiser step of `last.ckpt`; before there is one, the step at which training began.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    def __init__(self, dirpath: str | Path, every_n_steps: int) -> None:
        super().__init__(every_n_steps, "checkpoint.every_n_steps")
        self.last_model_path = str(Path(dirpath) / "last.ckpt")
        self.saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step at which training starts (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        self.saved_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if `trainer.max_time` ended the training (Lightning hook)."""
        self.act(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves if a signal ended the training; Lightning raises it between two batches (Lightning hook)."""
        if isinstance(exception, SIGTERMException):
            self.act(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, unless this step has been saved."""
        saved = trainer.global_step == self.saved_step and not owing(trainer)  # else the file lacks what is owed
        if saved or _is_trial(trainer):
            return
        check_finite(trainer, pl_module)
        if _save(trainer, self.last_model_path):
            self.saved_step = trainer.global_step


class BestCheckpoint(Scheduled, Checkpoint):
    """Saves `best.ckpt` at the step with the largest value of a metric, which is read when rollouts are due.

    The best value is part of every checkpoint and contains no paths, so it survives resuming and moving the run folder;
    if `best.ckpt` itself is missing, the best value is dropped.

    Args:
        dirpath: the run's checkpoint folder.
        monitor: a metric in `trainer.callback_metrics`.
        every_n_steps: optimiser steps between two rollouts.

    Attributes:
        best_model_path: the file's path, empty before there is one.
        best_score: the largest value so far, minus infinity before there is one.
        best_step: the optimiser step of that value.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    def __init__(self, dirpath: str | Path, monitor: str, every_n_steps: int) -> None:
        super().__init__(every_n_steps, "rollout.every_n_steps")
        self._path = Path(dirpath) / "best.ckpt"
        self.monitor = monitor
        self.best_model_path = ""
        self._warned = False
        self.best_score, self.best_step = -float("inf"), 0

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if the score is the best so far; a rollout that was given up leaves none, or an earlier step's."""
        given_up = any(callback.tags and self.monitor.startswith(callback.tags) for callback in owing(trainer))
        if _is_trial(trainer) or given_up:
            return
        if self.monitor not in trainer.callback_metrics:
            self._warn(trainer)
            return
        score = float(trainer.callback_metrics[self.monitor])
        if not trainer.strategy.reduce_boolean_decision(score > self.best_score):
            return
        before = self.state_dict()
        # The file contains its own score, so the score is set before it is known whether saving succeeds.
        self.best_score, self.best_step = score, trainer.global_step
        if _save(trainer, str(self._path)):
            self.best_model_path = str(self._path)
        else:
            self.best_score, self.best_step = before["best_score"], before["best_step"]

    def _warn(self, trainer: Trainer) -> None:
        """Warns once of a metric of rollouts that the first of them has not measured."""
        measured = [name for name in trainer.callback_metrics if name.startswith(_OF_ROLLOUTS)]
        if measured and self.monitor.startswith(_OF_ROLLOUTS) and trainer.is_global_zero and not self._warned:
            _log.warning(
                "callbacks.checkpoint.monitor=%s has not been measured, so none is selected as best; measured are %s",
                self.monitor,
                ", ".join(measured),
            )
            self._warned = True

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Acts on a score that has just been measured again; none exists unless a rollout was given up."""
        self.act(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain numbers for the checkpoint (Lightning hook)."""
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score if its file is there (Lightning hook).

        Raises:
            UserError: the checkpoint contains no best score.
        """
        try:
            _OF_BEST("", state_dict)
        except ValueError as error:
            raise UserError(f"the checkpoint's state of BestCheckpoint is damaged: {error}") from error
        if self._path.exists():
            self.best_model_path = str(self._path)
            self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]


def checkpoint_callbacks(
    run: RunContext, every_n_steps: int, monitor: str, rollout_every_n_steps: int
) -> list[Checkpoint]:
    """Makes the callbacks behind `best.ckpt` and `last.ckpt`, in the order in which they must run.

    Lightning runs checkpoint callbacks after all others, so the monitored metric belongs to the same step; `last` comes
    after `best`, so that it contains the best score.

    Args:
        run: provides the folder of checkpoints.
        every_n_steps: optimiser steps between two `last.ckpt`.
        monitor: the metric that decides which checkpoint is best; larger is better.
        rollout_every_n_steps: optimiser steps between two values of that metric.

    Raises:
        UserError: a number of steps is not positive.
    """
    return [
        BestCheckpoint(run.checkpoints, monitor, rollout_every_n_steps),
        LastCheckpoint(run.checkpoints, every_n_steps),
    ]


def _save(trainer: Trainer, path: str) -> bool:
    """Saves a checkpoint; returns whether it succeeded, the same on every rank."""
    trainer.save_checkpoint(path, weights_only=False)
    checkpoint_io = trainer.strategy.checkpoint_io
    failed = isinstance(checkpoint_io, AtomicCheckpointIO) and checkpoint_io.last_error is not None
    return not trainer.strategy.broadcast(failed)


def _is_trial(trainer: Trainer) -> bool:
    """Whether this is Lightning's fast_dev_run, which writes no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
