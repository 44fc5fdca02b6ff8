"""Data factorisations h: how the agents' denoised data make the joint data."""

from torch import Tensor

from dof_lightning.factorization.concat import Concatenation, WeightedConcatenation, per_agent
from dof_lightning.spec import DatasetSpec


class Concat(Concatenation):
    """Concatenation of the agents' data (seed, slide 'Data Factorization').

    Args:
        spec: the dataset's spec; nothing is learned.

    Shapes:
        parts, joint: `[B, N, ...]`
    """

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__()


class WConcat(WeightedConcatenation):
    """Agent i's data times its own learned w_i > 0 (seed, slide 'Data Factorization').

    The joint data are compared with the unweighted x_0 or judged by critics, so nothing is gained by shrinking and
    the weights need no constraint between agents (unlike the noise factorisation's, whose target is weighted too).

    Args:
        spec: the dataset's spec; N weights are learned.

    Shapes:
        parts, joint: `[B, N, ...]`
    """

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__(spec.n_agents)

    @property
    def weight(self) -> Tensor:
        """`[N]`, positive."""
        return self.log_weight.exp()

    def local(self, parts: Tensor) -> Tensor:
        """w_i x_i: what agent i does to its own data."""
        return parts * per_agent(self.weight, like=parts)
