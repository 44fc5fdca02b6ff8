"""Classifier-free guidance in one doubled batch."""

from collections.abc import Callable

import torch
from torch import Tensor

ConditionalDenoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


def guided_noise(
    denoiser: ConditionalDenoiser, x: Tensor, k: Tensor, condition: Tensor, weight: float, kept: int = 0
) -> Tensor:
    """eps_u + w (eps_c - eps_u) (Ho and Salimans, 2022, eq. 6, with 1 + their w; reference/method.md section 2).

    Both come out of one call on twice the batch; with w = 1 or w = 0 only one of them is needed. Each agent's guidance
    uses its own condition only, so IGD holds.

    Args:
        denoiser: from x, k and condition to noise.
        x: `[B, N, ...]`.
        k: `[B]` int64.
        condition: `[B, N, C]`; all zeros stand for no condition.
        kept: how many of the last entries of the condition both predictions know.
        weight: w; 0 ignores the condition, 1 follows it, more exaggerates it.
    """
    if weight == 1.0:
        return denoiser(x, k, condition)
    nothing = torch.zeros_like(condition)
    if kept:
        nothing[..., -kept:] = condition[..., -kept:]
    if weight == 0.0:
        return denoiser(x, k, nothing)
    both = denoiser(torch.cat([x, x]), torch.cat([k, k]), torch.cat([nothing, condition]))
    without, following = both.reshape(2, *x.shape).unbind()  # torch.export cannot follow chunk
    return without + weight * (following - without)
