"""What the agents' chains condition on beside their own: a common random seed, drawn before the episode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SharedSeeds:
    """How agents are told a seed z in 0..M-1 that they all share (docs/method/shared_seed.md).

    Where M is None there is none, and nobody is told anything.

    Attributes:
        count: M.
    """

    count: int | None = None

    @property
    def width(self) -> int:
        """How many entries a condition grows by."""
        return self.count or 0

    def tell(self, condition: Tensor, shared_seed: Tensor | None) -> Tensor:
        """[c_i | one-hot of z]: agent i's conditioning, and the seed that all agents were told.

        Args:
            condition: `[B, N, C]`.
            shared_seed: z, `[B, N]` int64 in 0..M-1, the same in each column; None where there is none.

        Returns:
            `[B, N, C + M]`, or the condition itself.
        """
        if shared_seed is None or self.count is None:
            return condition
        return torch.cat([condition, functional.one_hot(shared_seed, self.count).to(condition.dtype)], dim=-1)

    def tell_remembered(self, condition: Tensor, carry: Any) -> Tensor:
        """As `tell`, with the seed that the agents remember since the episode began (`DecentralizedPolicy.begin`)."""
        return condition if self.count is None else self.tell(condition, carry["shared_seed"])

    def tell_some(self, condition: Tensor) -> Tensor:
        """As `tell`, with another seed in each row, counting through 0..M-1."""
        if self.count is None:
            return condition
        rows = torch.arange(len(condition), device=condition.device) % self.count
        return self.tell(condition, rows[:, None].expand(-1, condition.shape[1]))

    def told(self, condition: Tensor) -> Tensor | None:
        """The seeds `[B]` of a condition that ends in them."""
        return None if self.count is None else condition[:, 0, -self.count :].argmax(-1)


NO_SEEDS = SharedSeeds()
