"""Value mixers: h where the agents' data are values Q_i."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.factorization.base import ValueMixer
from dof_lightning.spec import DatasetSpec


class Sum(ValueMixer):
    """Q_tot = sum_i Q_i (VDN, Sunehag et al., 2018).

    Args:
        spec: the dataset's spec; nothing is learned.
        state_dim: S, not read.

    Shapes:
        values `[B, N, 1]`, state `[B, S]`, result `[B, 1]`
    """

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int) -> None:
        super().__init__()

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The sum over agents."""
        return values.sum(dim=1)


class Monotone(ValueMixer):
    """Two layers over the Q_i whose non-negative weights are made from the state (QMIX, Rashid et al., 2018).

    Args:
        spec: the dataset's spec.
        state_dim: S, 0 where there is nothing to condition on (the weights are then constants that are learned).
        embed: width of the hidden layer.

    Shapes:
        values `[B, N, 1]`, state `[B, S]`, result `[B, 1]`
    """

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int, embed: int = 32) -> None:
        super().__init__()
        self.n_agents, self.embed = spec.n_agents, embed
        # One constant input stands beside the state: an empty state would leave the hyper-networks without any.
        inputs = state_dim + 1
        self.first_weight = nn.Linear(inputs, spec.n_agents * embed)
        self.first_bias = nn.Linear(inputs, embed)
        self.second_weight = nn.Linear(inputs, embed)
        self.second_bias = nn.Sequential(nn.Linear(inputs, embed), nn.ReLU(), nn.Linear(embed, 1))

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mixes; the derivative with respect to every value is non-negative."""
        context = functional.pad(state, (0, 1), value=1.0)
        first_weight = self.first_weight(context).abs().unflatten(1, (self.n_agents, self.embed))
        hidden = functional.elu(torch.sum(values * first_weight, dim=1) + self.first_bias(context))
        second_weight = self.second_weight(context).abs()
        return torch.sum(hidden * second_weight, dim=1, keepdim=True) + self.second_bias(context)
