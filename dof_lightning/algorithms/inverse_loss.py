"""What teaches inverse dynamics which action led from one observation to the next."""

import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.batch import EpisodeBatch
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.normalization import Normalizer
from dof_lightning.spec import DatasetSpec


def inverse_loss(
    spec: DatasetSpec,
    batch: EpisodeBatch,
    inverse: InverseDynamics,
    normalizer: Normalizer,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared error of continuous actions, cross-entropy over the legal ones of discrete ones.

    The mean over the window's real transitions and the real dimensions; the divisor counts padded rows too, so it
    is a constant of the batch.

    Args:
        spec: the dataset's.
        batch: windows.
        inverse: the network.
        normalizer: of the observations it sees.
        noise: standard deviation of what is added to the normalised observation after the action, as plans err.
        generator: draws it.
    """
    z = normalizer.normalize(batch.observations)
    rows, agents = batch.transition_mask, spec.environment.action_mask()
    now, following = (_fold_rows(part) for part in (z[:, :, :-1], z[:, :, 1:]))
    if noise:
        drawn = torch.randn(following.shape, generator=generator, device=following.device, dtype=following.dtype)
        following = following + noise * drawn * spec.environment.observation_mask().to(following.device)
    scores = inverse(now, following)
    taken, mask = _fold_rows(batch.actions), _fold_rows(rows).to(scores.dtype)
    if spec.action_kind == "discrete":
        legal = None if batch.legal is None else _fold_rows(batch.legal[:, :, :-1])
        return (mask * _cross_entropy(scores, taken, agents.to(scores.device), legal)).sum() / rows.numel()
    error = (scores - taken).square() * agents.to(scores.device)
    return (mask[..., None] * error).sum() / (len(mask) * agents.sum())


def _fold_rows(x: Tensor) -> Tensor:
    """`[B, N, T, ...]` to `[B * T, N, ...]`."""
    return x.transpose(1, 2).flatten(0, 1)


def _cross_entropy(scores: Tensor, taken: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
    """`[B, N]` of logits `[B, N, A]` over the legal choices; one that was taken counts as legal."""
    allowed = mask if legal is None else mask & legal
    allowed = allowed | functional.one_hot(taken, scores.shape[-1]).bool()
    return -scores.masked_fill(~allowed, float("-inf")).log_softmax(-1).gather(-1, taken[..., None]).squeeze(-1)
