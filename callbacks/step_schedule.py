"""The schedule of a callback, and the repetition of a measurement that a signal has cut short."""

from collections.abc import Callable
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer

from dof_lightning.errors import UserError


class StepSchedule:
    """Decides when an action is due: every n optimiser steps, and at the last one.

    A step counts once, whatever number of batches it accumulates.

    Args:
        every_n_steps: n.
        key: the configuration key of n, for the error message.

    Raises:
        UserError: n is not positive.
    """

    def __init__(self, every_n_steps: int, key: str) -> None:
        if every_n_steps < 1:
            raise UserError(f"{key}={every_n_steps} must be at least 1")
        self.every_n_steps = every_n_steps
        self._done = 0

    def start(self, trainer: Trainer) -> None:
        """Starts counting; what was due at the step that a run resumes from has been done already."""
        self._done = trainer.global_step

    def is_due(self, trainer: Trainer) -> bool:
        """Returns True once per step that is due; called after every batch."""
        step = trainer.global_step
        if step == self._done:
            return False
        self._done = step
        return step % self.every_n_steps == 0 or step == trainer.max_steps


T = TypeVar("T")


class GivenUp(Exception):
    """Stops a measurement because the run has to end; it is repeated when the run is resumed."""


class Scheduled(Callback):
    """A callback that acts when its schedule is due; never, if `every_n_steps` is None.

    Args:
        every_n_steps, key: see `StepSchedule`.

    Attributes:
        owed: whether it has given up its action at the step at which the run ended; part of every checkpoint.
        tags: the prefixes of its metrics' names, if other callbacks read them.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    owed = False
    tags: str | None = None

    def __init__(self, every_n_steps: int | None, key: str) -> None:
        self._schedule = None if every_n_steps is None else StepSchedule(every_n_steps, key)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the schedule (Lightning hook)."""
        if self._schedule is not None:
            self._schedule.start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Acts if it is due (Lightning hook)."""
        if self._schedule is not None and self._schedule.is_due(trainer):
            try:
                self.act(trainer, pl_module)
            except GivenUp:
                self.owed = True

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does the callback's work, on all ranks, once per step that is due.

        Raises:
            GivenUp: the run has to end; the same on all ranks (`whole`).
        """

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeats a measurement that was given up, at the same step, before a resumed run does anything else."""
        if self.owed:
            self.owed = False
            self.act(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing, unless something is owed (Lightning hook)."""
        return {"owed": True} if self.owed else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what is owed (Lightning hook)."""
        self.owed = bool(state_dict.get("owed", False))


def owing(trainer: Trainer) -> list[Scheduled]:
    """The callbacks that have given up their action at this step, and repeat it when the run is resumed."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Scheduled) and callback.owed]


def whole(trainer: Trainer, measure: Callable[[], T]) -> T:
    """Runs a measurement and returns it if no rank has given up; all ranks must call this at the same point.

    Raises:
        GivenUp: some rank has given up; all ranks raise it.
    """
    result: T | None = None
    given_up = False
    try:
        result = measure()
    except GivenUp:
        given_up = True
    if trainer.strategy.reduce_boolean_decision(given_up, all=False):
        raise GivenUp
    return result  # type: ignore[return-value]  # it is there: nobody has given up


def log_to_charts(trainer: Trainer, values: dict[str, float]) -> None:
    """Logs the values to every logger at the number of optimiser steps done."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
