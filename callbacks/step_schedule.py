"""When a callback is due."""

from lightning import Trainer

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
