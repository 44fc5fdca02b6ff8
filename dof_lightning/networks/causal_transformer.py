"""A transformer over an agent's requested returns, observations and actions, which looks back only."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.networks.agent_attention import attend_among_rows
from dof_lightning.networks.embedding import Identified
from dof_lightning.settings import Count, FractionBelowOne
from dof_lightning.spec import DatasetSpec

TOKENS = 3  # tokens of a row: the return, the observation, the action


class CausalTransformer(Identified):
    """Logits of a_t from R_0, o_0, a_0, ..., R_t, o_t: one network that all agents share, given the agent's id.

    This is the decision transformer (Chen et al., 2021, section 3) as in MADT (Meng et al., 2021). A row's position is
    that within the sequence, not the episode's time step: what to do at step 30 is learned from any window.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        condition_dim: C, number of entries that each agent sees.
        rows: T, the longest sequence.
        width: width of a token, a multiple of the heads.
        layers: number of layers of attention and perceptron.
        heads: number of attention heads.
        dropout: share of activations left out in training, in [0, 1).

    Shapes:
        returns `[B, N, T]`, seen `[B, N, T, C]`, actions `[B, N, T]` int64; result `[B, N, T, A]`

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        rows: int,
        width: Count = 64,
        layers: Count = 2,
        heads: Count = 2,
        dropout: FractionBelowOne = 0.1,
    ) -> None:
        super().__init__(spec.n_agents, "shared")
        if width % heads:
            raise UserError(f"algorithm.network.width={width} must be a multiple of heads={heads}")
        self.rows, self.n_choices = rows, spec.action_dim
        self.position = nn.Parameter(0.02 * torch.randn(rows, width))
        self.of_return = nn.Linear(1, width)
        self.of_observation = nn.Linear(condition_dim + spec.n_agents, width)
        self.of_action = nn.Linear(spec.action_dim, width)
        self.blocks = nn.ModuleList([CausalBlock(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, spec.action_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, returns: Tensor, seen: Tensor, actions: Tensor) -> Tensor:
        """Reads rows 0 to T - 1; row t of the result depends on no later row, nor on a_t."""
        batch, agents, rows = seen.shape[:3]
        done = functional.one_hot(actions, self.n_choices).to(seen.dtype)
        tokens = [
            self.of_return(returns[..., None].to(seen.dtype)),
            self.of_observation(self.identified(seen)),
            self.of_action(done),
        ]
        x = torch.stack(tokens, dim=3) + self.position[:rows, None]
        x = self.dropout(x.reshape(batch * agents, TOKENS * rows, -1))
        for block in self.blocks:
            x = block(x)
        after_observation = self.norm(x).reshape(batch, agents, rows, TOKENS, -1)[:, :, :, 1]
        result: Tensor = self.last(after_observation)
        return result


class CausalBlock(nn.Module):
    """Attention to this token and earlier ones, then a perceptron; each after a layer norm, and added to its input.

    Args:
        width: width of a token.
        heads: number of attention heads.
        dropout: share of activations left out in training.

    Shapes:
        x `[R, L, width]`, result as x
    """

    def __init__(self, width: Count, heads: Count, dropout: float) -> None:
        super().__init__()
        self.heads, self.share_left_out = heads, dropout
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        x = x + self.dropout(self._attend(self.norms[0](x)))
        result: Tensor = x + self.dropout(self.perceptron(self.norms[1](x)))
        return result

    def _attend(self, x: Tensor) -> Tensor:
        left_out = self.share_left_out if self.training else 0.0
        mixed = attend_among_rows(self.attention_in(x), self.heads, dropout=left_out, is_causal=True)
        result: Tensor = self.attention_out(mixed)
        return result
