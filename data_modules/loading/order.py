"""The order of windows in memory: a pure function of integers.

Windows come as one endless stream of epochs; each epoch is a permutation of all windows. Step s takes the
`global_batch_size` places from `s * global_batch_size` on, so the last partial batch of an epoch is filled up from
the next epoch: every window is seen equally often, every step is full, and nothing depends on how often the run was
interrupted. Rank r of R takes the r-th of R equal contiguous slices of it: the windows of a step are the same
whatever the number of ranks, and every rank has the same number of batches by construction.
"""

import torch
from torch import Tensor

from dof_lightning.seeding import make_generator


def window_order(seed: int, epoch: int, n_windows: int) -> Tensor:
    """The permutation of an epoch: `[n_windows]` int64."""
    return torch.randperm(n_windows, generator=make_generator(seed, "window order", epoch))


class WindowOrder:
    """The windows of every step; it keeps the permutations of the current epochs.

    Args:
        seed: the run's seed.
        n_windows: number of windows of the training episodes, at least 1.
        global_batch_size: number of windows per step over all ranks.
    """

    def __init__(self, seed: int, n_windows: int, global_batch_size: int) -> None:
        self.seed = seed
        self.n_windows = n_windows
        self.global_batch_size = global_batch_size
        self._permutations: dict[int, Tensor] = {}

    def position(self, step: int) -> tuple[int, int]:
        """The epoch of a step's first window, and the number of windows of that epoch before it."""
        return divmod(step * self.global_batch_size, self.n_windows)

    def windows(self, step: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Numbers of the windows that one rank takes at a step: `[global_batch_size / R]` int64.

        Args:
            step: number of batches before it, over the whole run.
            rank: the rank, below `world_size`.
            world_size: R, which divides the global batch size.
        """
        size = self.global_batch_size // world_size
        epoch, offset = divmod(step * self.global_batch_size + rank * size, self.n_windows)
        parts = []
        while size > 0:
            part = self._permutation(epoch)[offset : offset + size]
            parts.append(part)
            size -= len(part)
            epoch, offset = epoch + 1, 0
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            self._permutations = {known: order for known, order in self._permutations.items() if known == epoch - 1}
            self._permutations[epoch] = window_order(self.seed, epoch, self.n_windows)
        return self._permutations[epoch]
