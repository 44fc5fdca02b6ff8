"""Metrics of rollouts, reduced over ranks by sums so that the number of ranks does not matter."""

import torch
from torch import Tensor
from torchmetrics import Metric

from dof_lightning.spec import ReferenceScores


class EpisodeReturns(Metric):
    """Mean and spread of episode returns.

    Sums are kept in float64: the order in which ranks add them does not change the mean in float32.
    """

    full_state_update = False

    count: Tensor
    total: Tensor
    total_of_squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "total", "total_of_squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, returns: Tensor) -> None:
        """Adds episodes.

        Args:
            returns: `[E]`, E may be 0.
        """
        returns = returns.to(self.total)
        self.count += len(returns)
        self.total += returns.sum()
        self.total_of_squares += returns.square().sum()

    def compute(self) -> dict[str, Tensor]:
        """`mean`, `std` (of these episodes, without Bessel's correction) and `count`; NaN without episodes."""
        mean = self.total / self.count
        variance = self.total_of_squares / self.count - mean.square()
        return {"mean": mean, "std": variance.clamp(min=0).sqrt(), "count": self.count}


class NormalizedScore(EpisodeReturns):
    """Mean of 100 (S - S_random) / (S_expert - S_random).

    Args:
        reference: the returns that stand for 0 and 100.
    """

    def __init__(self, reference: ReferenceScores) -> None:
        super().__init__()
        self.reference = reference

    def compute(self) -> Tensor:  # type: ignore[override]
        """The score of the mean return (the score is affine, so also the mean score); NaN without episodes."""
        return (
            100.0 * (self.total / self.count - self.reference.random) / (self.reference.expert - self.reference.random)
        )


class WinRate(Metric):
    """Share of battles won."""

    full_state_update = False

    won: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("won", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, won: Tensor) -> None:
        """Adds battles.

        Args:
            won: `[E]` bool.
        """
        self.won += won.sum().to(self.won.device)
        self.count += len(won)

    def compute(self) -> Tensor:
        """Between 0 and 1; NaN without battles."""
        return self.won / self.count
