"""Losses that algorithms share, averaged over the rows that are real."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.algorithms.base import mean_over_ranks
from dof_lightning.batch import EpisodeBatch
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.normalization import Normalizer
from dof_lightning.settings import Positive, Settings
from dof_lightning.spec import DatasetSpec


def at_least_float32(values: Tensor) -> Tensor:
    """Converts half precision to float32 and keeps float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def cross_entropy(logits: Tensor, actions: Tensor, allowed: Tensor, weight: Tensor) -> Tensor:
    """-E[log pi_i(a_i)], where pi_i is the softmax over the allowed choices.

    Args:
        logits: `[..., A]`.
        actions: `[...]` int64, allowed where the weight is above 0.
        allowed: `[..., A]` bool.
        weight: `[...]`, 0 where a row does not count.
    """
    return weighted_mean(-log_probability(logits.float(), actions, allowed), weight)


def log_probability(logits: Tensor, actions: Tensor, allowed: Tensor) -> Tensor:
    """`[...]`, log pi_i(a_i) with all probability on allowed choices; arguments as in `cross_entropy`."""
    chosen = functional.one_hot(actions, logits.shape[-1]).bool()
    # Rows that do not count may hold any choice: it is allowed in them, so that no infinity meets a weight of 0.
    probabilities = logits.masked_fill(~(allowed | chosen), -float("inf")).log_softmax(-1)
    return probabilities.gather(-1, actions[..., None]).squeeze(-1)


def squared_error(prediction: Tensor, actions: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """E ||prediction - a||^2, a mean over the real entries of actions.

    Args:
        prediction: `[B, N, A]`.
        actions: `[B, N, A]`, the data's.
        mask: `[N, A]` bool, False where padded.
        weight: `[B, N]`, 0 where a row does not count.
    """
    prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    error = (prediction - actions).square() * mask
    return weighted_mean(error.sum(-1) / mask.sum(-1), weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean over all entries: those that do not count are 0, and the divisor does not depend on them."""
    return (values * weight).mean()


def negative_value(values: Tensor, weight: Tensor) -> Tensor:
    """-E[weight Q] / E|Q|, with |Q| a constant: the mean over the global batch, for each agent of separate critics.

    Args:
        values: `[B, N]`, or `[B, 1]` of a team.
        weight: `[B, 1]` or as `values`.
    """
    scale = mean_over_ranks(values.detach().abs().mean(0)).clamp_min(1e-6)
    return -(weight * values).mean(0).div(scale).mean()


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
        normalizer: the normaliser of the network's observations.
        noise: standard deviation of the noise on the normalised observation after the action, because plans err.
        generator: draws the noise.
    """
    z = normalizer.normalize(batch.observations)
    rows, agents = batch.transition_mask & batch.valid[:, None, 1:], spec.environment.action_mask()
    now, following = (_fold_rows(part) for part in (z[:, :, :-1], z[:, :, 1:]))
    if noise:
        drawn = torch.randn(following.shape, generator=generator, device=following.device, dtype=following.dtype)
        following = following + noise * drawn * spec.environment.observation_mask().to(following.device)
    scores = at_least_float32(inverse(now, following))
    taken, mask = _fold_rows(batch.actions), _fold_rows(rows).to(scores.dtype)
    if spec.action_kind == "discrete":
        allowed = agents.to(scores.device)
        allowed = allowed if batch.legal is None else allowed & _fold_rows(batch.legal[:, :, :-1])
        return (mask * -log_probability(scores, taken, allowed)).sum() / rows.numel()
    error = (scores - taken).square() * agents.to(scores.device)
    return (mask[..., None] * error).sum() / (len(mask) * agents.sum())


def _fold_rows(x: Tensor) -> Tensor:
    """`[B, N, T, ...]` to `[B * T, N, ...]`."""
    return x.transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class ImplicitConstraintSettings(Settings):
    """Temperatures of batch weights; the larger, the more alike the weights.

    Attributes:
        actor_temperature: temperature of the actors' weights, in units of the scaled rewards.
        critic_temperature: temperature of the weights in TD targets, in the same units; the default is so large that
            all weights are about 1.
    """

    actor_temperature: Positive = 0.1
    critic_temperature: Positive = 1000.0


@torch.no_grad()
def batch_weights(values: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Weights n softmax(values / temperature) over the n rows of a batch that count, 0 for all others (ICQ, eq. 8, 12).

    The rows are this rank's: with several ranks, each normalises its own part of the global batch.

    Args:
        values: `[B, ...]`, each column normalised on its own.
        counts: bool, shaped as `values`.
        temperature: above 0; the larger it is, the more alike the weights are.

    Returns:
        as `values`: each column sums to the number of rows that count there.
    """
    scores = (values.float() / temperature).masked_fill(~counts, -torch.inf)
    shares = torch.where(counts.any(0), scores, 0.0).softmax(0) * counts  # no row at all: nothing is weighted
    return counts.sum(0) * shares
