"""Inputs by which a network that all agents share knows whose row it sees."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import Agentwise, Sharing, agent_identities
from dof_lightning.sharding import FsdpRole


class Identified(Agentwise):
    """A network that also reads a one-hot agent id if all agents share it.

    Args:
        n_agents: N.
        sharing: of the network.
    """

    fsdp_role: ClassVar[FsdpRole] = "unit"
    agent_buffers: ClassVar[tuple[str, ...]] = ("agent_id",)
    agent_id: Tensor

    def __init__(self, n_agents: int, sharing: Sharing) -> None:
        super().__init__(n_agents, sharing)
        self.register_buffer("agent_id", agent_identities(n_agents, sharing))

    def identities(self) -> Tensor:
        """`[N, width]`: inputs that identify the agents to a shared network; width 0 for independent ones."""
        return self.agent_id

    def identified(self, *parts: Tensor) -> Tensor:
        """`[B, N, ..., D + width]`: parts `[B, N, ..., D_p]` side by side, followed by the agents' identities."""
        rows, identities = parts[-1].shape[:-1], self.identities().to(parts[-1].dtype)
        identities = identities.reshape(len(identities), *[1] * (len(rows) - 2), identities.shape[1])
        return torch.cat([*parts, identities.expand(*rows, -1)], dim=-1)


class AgentEmbedding(Agentwise):
    """A learned vector for each agent, standard normal at first; a selected agent keeps its own row only.

    Args:
        n_agents: N.
        width: width of a vector.
    """

    def __init__(self, n_agents: int, width: int) -> None:
        super().__init__(n_agents, "independent")
        self.vectors = nn.Parameter(torch.randn(n_agents, width))

    def forward(self) -> Tensor:
        """The vectors `[N, width]`."""
        return self.vectors


class Embedded(Identified):
    """A network that reads a one-hot agent id or a learned embedding of it if all agents share it.

    Args:
        n_agents: N.
        sharing: of the network.
        agent_embedding: width of the embedding; None means a one-hot id.

    Raises:
        UserError: an embedding is requested for independent networks, or its width is below 1.
    """

    def __init__(self, n_agents: int, sharing: Sharing, agent_embedding: int | None) -> None:
        super().__init__(n_agents, sharing)
        self.agent_embedding: AgentEmbedding | None = None
        if agent_embedding is None:
            return
        if sharing != "shared":
            raise UserError(
                f"agent_embedding={agent_embedding} identifies the agents of a shared network: set sharing=shared, or "
                f"agent_embedding=null with sharing={sharing}"
            )
        if agent_embedding < 1:
            raise UserError(f"agent_embedding={agent_embedding} must be at least 1, or null for a one-hot id")
        self.agent_embedding = AgentEmbedding(n_agents, agent_embedding)
        self.agent_id = torch.zeros(n_agents, 0)

    def identities(self) -> Tensor:
        """See the base class."""
        return self.agent_id if self.agent_embedding is None else self.agent_embedding()
