"""Attention among the agents inside a denoiser: where MADIFF's agents meet."""

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import Agentwise, AgentwiseLinear, Sharing


class AttentionOverAgents(Agentwise):
    """x_i + gamma sum_j softmax_j(q_i . k_j / sqrt(R d)) v_j over the agents j, in heads (MADIFF; gamma = 0 at first).

    The score of two agents compares all R rows of what they hold at once, so one head has N x N weights however long a
    window is [inferred: the reference says attention over agents, 4 heads and the residual gamma, no more].

    Args:
        n_agents: N.
        width: of a row, a multiple of the heads.
        heads: of the attention.
        sharing: of the projections and gamma; with `shared` the map is equivariant to permutations of the agents.

    Shapes:
        `[N, B, R, width]`

    Raises:
        UserError: the heads do not divide the width.
    """

    local_execution = False

    def __init__(self, n_agents: int, width: int, heads: int, sharing: Sharing) -> None:
        super().__init__(n_agents, sharing)
        if heads < 1 or width % heads:
            raise UserError(f"denoiser.heads={heads} must divide the width of every layer with attention, {width}")
        self.heads = heads
        self.project = AgentwiseLinear(n_agents, width, 3 * width, sharing)
        self.gamma = nn.Parameter(torch.zeros(n_agents if sharing == "independent" else 1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Every agent looks at all agents, itself among them."""
        agents, batch, rows, width = x.shape
        projected = self.project(x.flatten(1, 2)).reshape(agents, batch, rows, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(3, 1, 4, 0, 2, 5).flatten(4).unbind()  # [B, heads, N, R d] each
        score = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (score.softmax(-1) @ value).reshape(batch, self.heads, agents, rows, -1)
        return x + self.gamma * mixed.permute(2, 0, 3, 1, 4).reshape(x.shape)
