"""Attention among the agents inside a denoiser, where MADIFF's agents meet; and among the rows of one sequence."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import Agentwise, AgentwiseLinear, Sharing


class AttentionOverAgents(Agentwise):
    """x_i + gamma sum_j softmax_j(q_i . k_j / sqrt(R d)) v_j over the agents j, in heads (MADIFF; gamma = 0 at first).

    The score of two agents compares all their R rows at once, so one head has N x N weights however long a window is
    [inferred: the reference specifies attention over agents, 4 heads and the residual gamma, no more].

    Args:
        n_agents: N.
        width: width of a row, a multiple of the heads.
        heads: number of attention heads.
        sharing: sharing of the projections and gamma; with `shared` the map is equivariant to permutations of the
            agents.

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
        """Attention of every agent over all agents, including itself."""
        agents, batch, rows, width = x.shape
        projected = self.project(x.flatten(1, 2)).reshape(agents, batch, rows, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(3, 1, 4, 0, 2, 5).flatten(4).unbind()  # [B, heads, N, R d] each
        score = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (score.softmax(-1) @ value).reshape(batch, self.heads, agents, rows, -1)
        return x + self.gamma * mixed.permute(2, 0, 3, 1, 4).reshape(x.shape)


def attend_among_rows(projected: Tensor, heads: int, dropout: float = 0.0, is_causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V in heads (Vaswani et al., 2017, eq. 1).

    Args:
        projected: `[..., L, 3 * width]`, queries, keys and values of L rows.
        heads: number of heads, divides the width.
        dropout: share of the weights left out.
        is_causal: whether rows look at themselves and earlier rows only.

    Returns:
        `[..., L, width]`, the heads side by side.
    """
    split = projected.unflatten(-1, (3, heads, -1))  # type: ignore[no-untyped-call]
    query, key, value = split.movedim((-3, -2), (0, -3)).unbind()  # each [..., heads, L, width / heads]
    mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=is_causal)
    return mixed.transpose(-3, -2).flatten(-2)
