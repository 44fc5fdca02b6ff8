"""Data factorisations h: how the agents' denoised data make the joint data."""

from torch import Tensor

from dof_lightning.factorization.concat import Concat as Concat
from dof_lightning.factorization.concat import WeightedConcatenation, per_agent
from dof_lightning.factorization.mixing import ResidualAttention


class WConcat(WeightedConcatenation):
    """Agent i's data times its own learned w_i > 0 (h = WConcat of Li et al., 2025).

    The joint data are compared with the unweighted x_0 or judged by critics, so nothing is gained by shrinking and
    the weights need no constraint between agents (unlike the noise factorisation's, whose target is weighted too).
    """

    @property
    def weight(self) -> Tensor:
        """`[N]`, positive."""
        return self.log_weight.exp()

    def local(self, parts: Tensor) -> Tensor:
        """w_i x_i: what agent i does to its own data."""
        return parts * per_agent(self.weight, like=parts)


class Attention(ResidualAttention):
    """x_i + softmax(Q K^T / sqrt(d)) V over all agents' denoised data (h = Atten of Li et al., 2025).

    Applied once, to the finished x_1^0..x_N^0. It needs the others' data, so it is centralised; how the seed runs it at
    decentralised execution is not said. [Formula inferred, with a residual term so that training starts at concat.]
    """
