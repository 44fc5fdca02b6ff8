"""Implicit constraint Q-learning: rows of a batch weighted by what their actions are worth (Yang et al., 2021)."""

import torch
from torch import Tensor


@torch.no_grad()
def batch_weights(values: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Weights n softmax(values / temperature) over the n rows of a batch that count, 0 for all others (ICQ, eq. 8, 12).

    Over this rank's rows: with several ranks each normalises its own part of the global batch.

    Args:
        values: `[B, ...]`, each column normalised on its own.
        counts: bool, as `values`.
        temperature: above 0; the larger, the more alike the weights.

    Returns:
        as `values`: each column sums to the number of rows that count there.
    """
    scores = (values.float() / temperature).masked_fill(~counts, -torch.inf)
    shares = torch.where(counts.any(0), scores, 0.0).softmax(0) * counts  # no row at all: nothing is weighted
    return counts.sum(0) * shares
