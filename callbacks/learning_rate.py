"""A chart of the learning rate of every parameter group."""

from lightning import LightningModule, Trainer

from callbacks.step_schedule import Scheduled, log_to_charts


class LearningRateCallback(Scheduled):
    """Logs `learning_rate/<group>` for the groups of every optimiser: at step n, the rate that step n + 1 uses.

    Lightning's LearningRateMonitor would need a logger, call the groups `lr-Adam/<group>`, and log before a step, per
    batch: accumulated batches would be counted separately, and the last step would have no point.

    Args:
        every_n_steps: optimiser steps between two points.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__(every_n_steps, "learning_rate.every_n_steps")

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the learning rates."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rates = {f"learning_rate/{group.get('name', i)}": group["lr"] for i, group in enumerate(groups)}
        log_to_charts(trainer, rates)
