"""What the agents' chains condition on beside their own: a common random seed, drawn before the episode."""

import torch
from torch import Tensor
from torch.nn import functional


def with_shared_seed(condition: Tensor, shared_seed: Tensor | None, shared_seeds: int | None) -> Tensor:
    """[c_i | one-hot of z]: agent i's conditioning, and the seed that all agents were told.

    Args:
        condition: `[B, N, C]`.
        shared_seed: z, `[B, N]` int64 in 0..M-1, the same in each column; None where there is none.
        shared_seeds: M, None where there is none.

    Returns:
        `[B, N, C + M]`, or the condition itself.
    """
    if shared_seed is None or shared_seeds is None:
        return condition
    return torch.cat([condition, functional.one_hot(shared_seed, shared_seeds).to(condition.dtype)], dim=-1)


def some_seeds(observations: Tensor, shared_seeds: int | None) -> tuple[Tensor | None, int | None]:
    """A seed for each row of observations `[B, N, O]`, counting through 0..M-1, `[B, N]`; and M. Both may be None."""
    if shared_seeds is None:
        return None, None
    rows = torch.arange(len(observations), device=observations.device) % shared_seeds
    return rows[:, None].expand(-1, observations.shape[1]), shared_seeds
