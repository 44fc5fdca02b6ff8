"""The learning rate of every parameter group, on a chart."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.step_schedule import StepSchedule


class LearningRateCallback(Callback):
    """Logs `learning_rate/<group>` for the groups of every optimiser.

    Lightning's LearningRateMonitor would need a logger, call the groups `lr-Adam/<group>`, and log before a step, by
    batches: accumulated ones would be counted each, and the last step would have no point.

    Args:
        every_n_steps: optimiser steps between two points.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._schedule = StepSchedule(every_n_steps, "learning_rate.every_n_steps")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning hook."""
        self._schedule.start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs where due (Lightning hook)."""
        if not self._schedule.is_due(trainer):
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rates = {f"learning_rate/{group.get('name', i)}": group["lr"] for i, group in enumerate(groups)}
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.global_step)
