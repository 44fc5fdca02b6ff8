"""How a network that all agents share is told whose row it sees."""

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import Agentwise, Sharing


class AgentEmbedding(Agentwise):
    """A learned vector for each agent, standard normal at first; a selected agent keeps its own row only.

    Args:
        n_agents: N.
        width: of a vector.
    """

    def __init__(self, n_agents: int, width: int) -> None:
        super().__init__(n_agents, "independent")
        self.vectors = nn.Parameter(torch.randn(n_agents, width))

    def forward(self) -> Tensor:
        """`[N, width]`."""
        return self.vectors


def build_embedding(n_agents: int, sharing: Sharing, width: int | None) -> AgentEmbedding | None:
    """The embedding that stands beside a shared network's inputs, None where a one-hot id (or nothing) does.

    Args:
        n_agents: N.
        sharing: of the network.
        width: of the embedding; None for no embedding.

    Raises:
        UserError: an embedding for independent networks, or a width below 1.
    """
    if width is None:
        return None
    if sharing != "shared":
        raise UserError(
            f"agent_embedding={width} tells the agents of a shared network apart: set sharing=shared, or "
            f"agent_embedding=null with sharing={sharing}"
        )
    if width < 1:
        raise UserError(f"agent_embedding={width} must be at least 1, or null for a one-hot id")
    return AgentEmbedding(n_agents, width)
