"""Clipping of estimates that keeps a useful gradient."""

from typing import Any

import torch
from torch import Tensor


class _ClipWithWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        pushed_out = ((x > ctx.limit) & (gradient < 0)) | ((x < -ctx.limit) & (gradient > 0))
        return gradient.masked_fill(pushed_out, 0.0), None


def clip_with_way_back(x: Tensor, limit: float) -> Tensor:
    """Clamps to [-limit, limit]; descent may pull saturated entries back in, but not push them further out.

    The clamp's own gradient would leave a saturated action unchanged for ever. The identity's gradient
    (straight-through) promises a gain that the clamp takes away, and lets the Q-gradient push estimates out without
    bound.
    """
    clipped: Tensor = _ClipWithWayBack.apply(x, limit)  # type: ignore[no-untyped-call]
    return clipped
