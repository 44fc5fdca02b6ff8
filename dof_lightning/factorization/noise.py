"""Noise factorisations f: how the agents' noises and states make the joint ones."""

from torch import Tensor

from dof_lightning.factorization.concat import Concatenation, WeightedConcatenation
from dof_lightning.spec import DatasetSpec


class Concat(Concatenation):
    """Concatenation of per-agent parts (seed, Theorem 1, eqs. 8-11).

    Args:
        spec: the dataset's spec; nothing is learned.

    Shapes:
        parts, joint: `[B, N, ...]`
    """

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__()


class WConcat(WeightedConcatenation):
    """Weighted concatenation of per-agent parts (seed, Theorem 2, eqs. B.25-B.29).

    Weights are positive with geometric mean 1, so no loss can shrink them all; prediction, target and state are
    weighted alike, and at the optimum of a joint squared error w_i^2 is proportional to 1 / L_i, agent i's own error.

    Args:
        spec: the dataset's spec; N weights are learned.

    Shapes:
        parts, joint: `[B, N, ...]`
    """

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__(spec.n_agents)

    @property
    def weight(self) -> Tensor:
        """`[N]`, positive, geometric mean 1."""
        return (self.log_weight - self.log_weight.mean()).exp()

    def local(self, parts: Tensor) -> Tensor:
        """The parts as they are: in the weighted space the weights cancel, each chain runs on its own x_i."""
        return parts
