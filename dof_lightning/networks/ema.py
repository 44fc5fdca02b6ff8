"""Exponential moving averages of modules, saved and loaded as any other submodule."""

import copy
from typing import TypeVar

import torch
from torch import nn

from dof_lightning.sharding import local

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def ema_copy(module: ModuleT) -> ModuleT:
    """The start of a moving average: a copy in evaluation mode that takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(average: nn.Module, online: nn.Module, decay: float) -> None:
    """Sets average = decay * average + (1 - decay) * online for parameters; buffers are copied.

    If both are sharded, every rank updates its own part.

    Args:
        average: the result of `ema_copy(online)`, changed in place.
        online: the module that is trained.
        decay: in [0, 1]; 0 copies, 1 keeps the average as it is.
    """
    parameters = local(average.parameters())
    buffers = list(average.buffers())
    if parameters:
        torch._foreach_lerp_(parameters, local(online.parameters()), 1.0 - decay)
    if buffers:
        torch._foreach_copy_(buffers, list(online.buffers()))
