"""Self-attention over agents."""

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError


class AgentAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over the agents, for every row of their parts (Vaswani et al., 2017, eq. 1).

    An agent's token is its D numbers, embedded by one layer that all agents share, plus a learned identity. The mixed
    values are brought back to D numbers; nothing is added to them here.

    Args:
        n_agents: N.
        width: the largest D; narrower tokens are padded with zeros.
        embed: width of the embedded tokens; the heads share it.
        heads: divides `embed`.

    Raises:
        UserError: `heads` does not divide `embed`.

    Shapes:
        parts, result: `[B, N, ..., D]`
    """

    def __init__(self, n_agents: int, width: int, embed: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or embed % heads:
            raise UserError(f"embed={embed} of an attention must be a multiple of heads={heads}")
        self.width, self.heads = width, heads
        self.embed = nn.Linear(width, embed)
        self.identity = nn.Parameter(torch.randn(n_agents, embed) / 2)
        self.project = nn.Linear(embed, 3 * embed)
        self.out = nn.Linear(embed, width)

    def forward(self, parts: Tensor) -> Tensor:
        """Attention of every agent over all agents, including itself."""
        query, key, value = (self._heads(tokens) for tokens in self._project(parts))
        score = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (score.softmax(-1) @ value).transpose(-3, -2).flatten(-2)
        return self._back(mixed, parts)

    def alone(self, parts: Tensor) -> Tensor:
        """Attention of every agent over itself only: the softmax over one score is 1, whatever the score."""
        return self._back(self._project(parts)[2], parts)

    def select_agent(self, agent: int) -> Self:
        """A copy that holds one agent's identity only (N = 1)."""
        selected = copy.deepcopy(self)
        own = self.identity.detach()[agent : agent + 1].clone()
        selected.identity = nn.Parameter(own, self.identity.requires_grad)
        return selected

    def _project(self, parts: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, `[B, ..., N, embed]` each."""
        tokens = functional.pad(parts.movedim(1, -2), (0, self.width - parts.shape[-1]))
        embedded = functional.silu(self.embed(tokens) + self.identity)
        return self.project(embedded).chunk(3, dim=-1)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:-1], self.heads, -1).transpose(-3, -2)

    def _back(self, mixed: Tensor, parts: Tensor) -> Tensor:
        return self.out(mixed)[..., : parts.shape[-1]].movedim(-2, 1)
