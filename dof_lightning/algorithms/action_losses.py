"""Losses of actors that imitate, averaged over the rows that are real."""

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, actions: Tensor, allowed: Tensor, weight: Tensor) -> Tensor:
    """-E[log pi_i(a_i)], where pi_i is the softmax over the allowed choices.

    Args:
        logits: `[..., A]`.
        actions: `[...]` int64, allowed where the weight is above 0.
        allowed: `[..., A]` bool.
        weight: `[...]`, 0 where a row does not count.
    """
    return weighted_mean(-log_probability(logits, actions, allowed), weight)


def log_probability(logits: Tensor, actions: Tensor, allowed: Tensor) -> Tensor:
    """`[...]`, log pi_i(a_i) with all probability on allowed choices; arguments as `cross_entropy`."""
    chosen = functional.one_hot(actions, logits.shape[-1]).bool()
    # Rows that do not count may hold any choice: there it is allowed, so that no infinity meets a weight of 0.
    probabilities = logits.float().masked_fill(~(allowed | chosen), -float("inf")).log_softmax(-1)
    return probabilities.gather(-1, actions[..., None]).squeeze(-1)


def squared_error(prediction: Tensor, actions: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """E ||prediction - a||^2, a mean over the real entries of actions.

    Args:
        prediction: `[B, N, A]`.
        actions: `[B, N, A]`, the data's.
        mask: `[N, A]` bool, False where padded.
        weight: `[B, N]`, 0 where a row does not count.
    """
    error = (prediction.float() - actions).square() * mask
    return weighted_mean(error.sum(-1) / mask.sum(-1), weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Over all entries: those that do not count are 0, and the divisor does not depend on them."""
    return (values * weight).mean()
