"""Conditioning of the agents' chains on a common random seed that is drawn before the episode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SharedSeeds:
    """Adds a seed z in 0..M-1 that all agents share to their conditions (docs/method/shared_seed.md).

    If M is None there is no such seed, and conditions stay as they are.

    Attributes:
        count: M, number of seeds.
    """

    count: int | None = None

    @property
    def width(self) -> int:
        """The number of entries that a condition gains."""
        return self.count or 0

    def tell(self, condition: Tensor, shared_seed: Tensor | None) -> Tensor:
        """[c_i | one-hot of z]: agent i's conditioning, and the seed that all agents share.

        Args:
            condition: `[B, N, C]`.
            shared_seed: z, `[B, N]` int64 in 0..M-1, the same in each column; None if there is none.

        Returns:
            `[B, N, C + M]`, or the condition itself.
        """
        if shared_seed is None or self.count is None:
            return condition
        return torch.cat([condition, functional.one_hot(shared_seed, self.count).to(condition.dtype)], dim=-1)

    def tell_remembered(self, condition: Tensor, carry: Any) -> Tensor:
        """Does what `tell` does, with the seed in the agents' memory since `DecentralizedPolicy.begin`."""
        return condition if self.count is None else self.tell(condition, carry["shared_seed"])

    def tell_some(self, condition: Tensor) -> Tensor:
        """Does what `tell` does, with a different seed in each row, counting through 0..M-1."""
        if self.count is None:
            return condition
        rows = torch.arange(len(condition), device=condition.device) % self.count
        return self.tell(condition, rows[:, None].expand(-1, condition.shape[1]))

    def told(self, condition: Tensor) -> Tensor | None:
        """Reads the seeds `[B]` from the end of a condition."""
        return None if self.count is None else condition[:, 0, -self.count :].argmax(-1)


NO_SEEDS = SharedSeeds()
