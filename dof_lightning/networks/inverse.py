"""Inverse dynamics: the action that leads from one observation to the next."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import Agentwise, AgentwiseMLP, agent_identities
from dof_lightning.settings import Count
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec

InverseSharing = Literal["independent", "shared", "joint"]


class InverseDynamics(Agentwise):
    """I_i(o_i, o_i') of every agent, from its own two observations (Li et al., 2025: DoF-Trajectory).

    [o_i | o_i'] -> hidden layers -> A: the action itself if it is continuous, logits if it is discrete. A network
    shared by all agents also reads a one-hot agent id. With `joint`, one network reads all agents' observations and
    outputs all agents' actions, which is centralised.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        hidden: widths of the hidden layers.
        sharing: `independent` networks, one `shared` by all agents, or one `joint` network.
        activation: between the layers.

    Shapes:
        current, following `[B, N, O]`, result `[B, N, A]`, 0 for padding
    """

    agent_buffers: ClassVar[tuple[str, ...]] = ("action_mask", "agent_id")
    fsdp_role: ClassVar[FsdpRole] = "unit"
    action_mask: Tensor
    agent_id: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        hidden: Sequence[Count] = (256, 256),
        sharing: InverseSharing = "independent",
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec.n_agents, "shared" if sharing == "joint" else sharing)
        self.local_execution = sharing != "joint"
        self.register_buffer("action_mask", spec.environment.action_mask())
        identities = agent_identities(spec.n_agents, self.sharing if self.local_execution else "independent")
        self.register_buffer("agent_id", identities)
        # The joint network is that of a single agent as wide as the team.
        teams, members = (spec.n_agents, 1) if self.local_execution else (1, spec.n_agents)
        inputs = 2 * spec.observation_dim + self.agent_id.shape[1]
        sizes = (members * inputs, *hidden, members * spec.action_dim)
        self.network = AgentwiseMLP(teams, sizes, activation, self.sharing)

    def forward(self, current: Tensor, following: Tensor) -> Tensor:
        """Predicts each agent's action."""
        identity = self.agent_id.to(current.dtype).expand(current.shape[0], -1, -1)
        seen = torch.cat([current, following, identity], dim=-1)
        if not self.local_execution:
            seen = seen.flatten(1)[:, None]
        scores: Tensor = self.network(seen)
        return scores.reshape(*current.shape[:2], -1) * self.action_mask
