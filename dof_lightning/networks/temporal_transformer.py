"""An alternative denoiser of DoF-Trajectory: one small transformer over time per agent."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agent_attention import attend_among_rows
from dof_lightning.networks.agentwise import Agentwise, AgentwiseLinear, AgentwiseMLP
from dof_lightning.networks.denoiser import SinusoidalEmbedding
from dof_lightning.networks.temporal import TemporalDenoiser, TemporalSettings
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class TemporalTransformerSettings(TemporalSettings):
    """Settings of `TemporalTransformer`.

    Attributes:
        width: width of a token, even, at least 4 and a multiple of the heads.
        depth: number of blocks.
        heads: number of attention heads.
    """

    width: int = 64
    depth: Count = 2
    heads: int = 4
    activation: Activation = "silu"

    def check(self) -> None:
        """See the base class."""
        width, heads = self.width, self.heads
        if heads < 1 or width % heads or width < 4 or width % 2:
            raise UserError(f"denoiser.width={width} must be even, at least 4 and a multiple of denoiser.heads={heads}")


class TransformerBlock(Agentwise):
    """Attention among the rows of an agent's own window, then a perceptron per row (DiT, Peebles and Xie, 2023).

    The embedding of step and conditioning shifts and scales both inputs and gates both outputs; the gates are zero at
    first, so the block is the identity (adaLN-Zero, their section 3.2).

    Args:
        n_agents: N.
        settings: the network's settings.

    Shapes:
        x `[N, B, T, width]`, embedding `[N, B, 2 E]`, result as x
    """

    def __init__(self, n_agents: int, settings: TemporalTransformerSettings) -> None:
        width, sharing = settings.width, settings.sharing
        super().__init__(n_agents, sharing)
        self.heads = settings.heads
        self.attention_in = AgentwiseLinear(n_agents, width, 3 * width, sharing)
        self.attention_out = AgentwiseLinear(n_agents, width, width, sharing)
        self.perceptron = AgentwiseMLP(n_agents, (width, 2 * width, width), settings.activation, sharing)
        self.modulation = AgentwiseLinear(n_agents, 2 * settings.embedding, 6 * width, sharing)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Applies each agent's block to that agent's rows."""
        shift, scale, gate, shift_2, scale_2, gate_2 = (
            part[:, :, None] for part in self.modulation(embedding).split(x.shape[-1], dim=-1)
        )
        x = x + gate * self._attend(_normalize(x) * (1 + scale) + shift)
        return x + gate_2 * _rowwise(self.perceptron.agents_first, _normalize(x) * (1 + scale_2) + shift_2)

    def _attend(self, x: Tensor) -> Tensor:
        return _rowwise(self.attention_out, attend_among_rows(_rowwise(self.attention_in, x), self.heads))


class TemporalTransformer(TemporalDenoiser, made_by=TemporalTransformerSettings):
    """eps_i(x_i^k, k, c_i) of every agent: the noise in agent i's window of observations, from its own row only.

    The rows of a window are tokens to which the position in the window is added; attention never leaves an agent, so
    IGD holds. A network shared by all agents also reads a one-hot agent id or a learned embedding of it. Padded
    dimensions come out as 0.

    Arguments, shapes and errors are those of `TemporalDenoiser`.
    """

    def __init__(self, spec: DatasetSpec, condition_dim: int, settings: TemporalTransformerSettings) -> None:
        super().__init__(spec, condition_dim, settings)
        n_agents, width, sharing = spec.n_agents, settings.width, settings.sharing
        self.place_embedding = SinusoidalEmbedding(width, "denoiser.width")
        self.entry = AgentwiseLinear(n_agents, spec.observation_dim, width, sharing)
        self.blocks = nn.ModuleList(TransformerBlock(n_agents, settings) for _ in range(settings.depth))
        self.exit = AgentwiseLinear(n_agents, width, spec.observation_dim, sharing)

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """Predicts the noise in x at step k."""
        embedding = self.embed(k, condition.to(x.dtype))
        places = self.place_embedding(torch.arange(x.shape[2], device=x.device), x.dtype)
        hidden = _rowwise(self.entry, x.transpose(0, 1)) + places
        for block in self.blocks:
            hidden = block(hidden, embedding)
        noise = _rowwise(self.exit, _normalize(hidden)).transpose(0, 1)
        return noise * self.observation_mask[:, None]


def _rowwise(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies an agents-first layer to `[N, B, T, D]`."""
    rows = layer(x.flatten(1, 2))
    return rows.reshape(*x.shape[:3], rows.shape[-1])


def _normalize(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])
