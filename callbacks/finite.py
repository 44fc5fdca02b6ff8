"""A check that ends a diverged training before its weights replace good ones."""

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from dof_lightning.errors import SharedError


def check_finite(trainer: Trainer, pl_module: LightningModule) -> None:
    """Checks that every weight of this rank is finite; all ranks must call this at the same step.

    Raises:
        SharedError: a weight is not finite on some rank; all ranks raise it.
    """
    weights = [_of_this_rank(parameter.detach()) for parameter in pl_module.parameters()]
    finite = all(torch.stack([weight.isfinite().all() for weight in weights]).tolist()) if weights else True
    if not trainer.strategy.reduce_boolean_decision(finite, all=True):
        raise SharedError(
            f"the training has diverged: weights are not finite at step {trainer.global_step:,}; earlier checkpoints "
            "are kept. Try a smaller algorithm.q_weight or learning rate, or a gradient clip, with another run_dir="
        )


def _of_this_rank(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight
