"""Networks of the agents' own values."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import Agentwise, AgentwiseMLP
from dof_lightning.settings import Count
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec


class AgentwiseValue(Agentwise):
    """q_i(o_i, u_i) in (-1, 1) of every agent, from its own row only: one batched product.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        condition_dim: C, number of entries that each agent's value conditions on.
        hidden: widths of the hidden layers.
        activation: between the layers; tanh follows the last.

    Shapes:
        condition `[B, N, C]`, actions `[B, N, A]`, result `[B, N, 1]`
    """

    fsdp_role: ClassVar[FsdpRole] = "unit"

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[Count] = (64, 64),
        activation: Activation = "silu",
    ) -> None:
        super().__init__(spec.n_agents, "independent")
        self.network = AgentwiseMLP(spec.n_agents, (condition_dim + spec.action_dim, *hidden, 1), activation)

    def forward(self, condition: Tensor, actions: Tensor) -> Tensor:
        """Values of each agent's own action."""
        return torch.tanh(self.network(torch.cat([condition, actions], dim=-1)))


class StateValue(Agentwise):
    """V_i(o_i, t) of every agent, from its own row only: one batched product.

    Args:
        spec: the dataset's spec; O = `spec.observation_dim`.
        hidden: widths of the hidden layers.
        activation: between the layers.

    Shapes:
        rows `[B, N, O + 1]`, the observation followed by the elapsed share of the episode; result `[B, N]`
    """

    fsdp_role: ClassVar[FsdpRole] = "unit"

    def __init__(
        self, spec: DatasetSpec, hidden: Sequence[Count] = (128, 128), activation: Activation = "silu"
    ) -> None:
        super().__init__(spec.n_agents, "independent")
        self.network = AgentwiseMLP(spec.n_agents, (spec.observation_dim + 1, *hidden, 1), activation)

    def forward(self, rows: Tensor) -> Tensor:
        """Values of each agent's own row."""
        values: Tensor = self.network(rows)
        return values[..., 0]
