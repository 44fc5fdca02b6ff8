"""Inverse dynamics: which action leads from one observation to the next."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import Agentwise, AgentwiseMLP, Sharing, agent_identities
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec


class InverseDynamics(Agentwise):
    """I_i(o_i, o_i') of every agent, from its own two observations only (reference/method.md section 2).

    [o_i | o_i'] -> hidden layers -> A: the action itself where it is continuous, logits where it is discrete. A network
    shared by all agents also reads a one-hot agent id.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        hidden: widths of the hidden layers.
        sharing: `independent` networks or one `shared` by all agents.
        activation: between the layers.

    Shapes:
        current, following `[B, N, O]`, result `[B, N, A]`, 0 where padded
    """

    agent_buffers: ClassVar[tuple[str, ...]] = ("action_mask", "agent_id")
    fsdp_role: ClassVar[FsdpRole] = "unit"
    action_mask: Tensor
    agent_id: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        hidden: Sequence[int] = (256, 256),
        sharing: Sharing = "independent",
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec.n_agents, sharing)
        self.register_buffer("action_mask", spec.environment.action_mask())
        self.register_buffer("agent_id", agent_identities(spec.n_agents, sharing))
        inputs = 2 * spec.observation_dim + self.agent_id.shape[1]
        self.network = AgentwiseMLP(spec.n_agents, (inputs, *hidden, spec.action_dim), activation, sharing)

    def forward(self, current: Tensor, following: Tensor) -> Tensor:
        """Predicts each agent's own action."""
        identity = self.agent_id.to(current.dtype).expand(current.shape[0], -1, -1)
        return self.network(torch.cat([current, following, identity], dim=-1)) * self.action_mask
