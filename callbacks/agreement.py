"""A check that all ranks start from the same checkpoint."""

import torch
from lightning import Callback, LightningModule, Trainer

from dof_lightning.errors import UserError


class Agreement(Callback):
    """Refuses to train if ranks have found different checkpoints, which happens without a shared file system.

    Args:
        step: the step of the checkpoint that this rank resumes from, None for a fresh start.
    """

    def __init__(self, step: int | None) -> None:
        self._step = -1 if step is None else step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the steps of all ranks (Lightning hook).

        Raises:
            UserError: the steps differ.
        """
        device = trainer.strategy.root_device
        bounds = torch.tensor([self._step, -self._step], device=device)
        largest, smallest = trainer.strategy.reduce(bounds, reduce_op="max").tolist()
        if largest != -smallest:
            found = " and ".join("none" if step < 0 else f"one of step {step:,}" for step in (-smallest, largest))
            raise UserError(
                f"ranks found different checkpoints ({found}): run_dir= must be a folder that all machines share"
            )
