"""When a callback is due."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from dof_lightning.errors import UserError


class StepSchedule:
    """Every n optimiser steps and at the last one; once a step, however many batches it accumulates.

    Args:
        every_n_steps: n.
        key: what the user calls n, for the error message.

    Raises:
        UserError: n is not positive.
    """

    def __init__(self, every_n_steps: int, key: str) -> None:
        if every_n_steps < 1:
            raise UserError(f"{key}={every_n_steps} must be at least 1")
        self.every_n_steps = every_n_steps
        self._done = 0

    def start(self, trainer: Trainer) -> None:
        """A resumed run has already done what was due at the step it resumes from."""
        self._done = trainer.global_step

    def is_due(self, trainer: Trainer) -> bool:
        """True once for each step that is due; to be asked after every batch."""
        step = trainer.global_step
        if step == self._done:
            return False
        self._done = step
        return step % self.every_n_steps == 0 or step == trainer.max_steps


class Scheduled(Callback):
    """A callback that acts when its schedule says so; never, where `every_n_steps` is None.

    Args:
        every_n_steps, key: see `StepSchedule`.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    def __init__(self, every_n_steps: int | None, key: str) -> None:
        self._schedule = None if every_n_steps is None else StepSchedule(every_n_steps, key)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the schedule (Lightning hook)."""
        if self._schedule is not None:
            self._schedule.start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Acts where due (Lightning hook)."""
        if self._schedule is not None and self._schedule.is_due(trainer):
            self.act(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is to be done, on all ranks, once for each step that is due."""


def log_to_charts(trainer: Trainer, values: dict[str, float]) -> None:
    """Gives every logger the values at the number of optimiser steps done."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
