"""Another denoiser of DoF-Trajectory: one small transformer over time per agent."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.networks.activation import ACTIVATIONS, Activation
from dof_lightning.networks.agentwise import Agentwise, AgentwiseLinear, AgentwiseMLP, Sharing, agent_identities
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.embedding import build_embedding
from dof_lightning.networks.mlp import SinusoidalEmbedding
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec


class TransformerBlock(Agentwise):
    """Attention among the rows of an agent's own window, then a perceptron a row (DiT, Peebles and Xie, 2023).

    The embedding of step and conditioning shifts and scales both inputs and gates both outputs; the gates are zero at
    first, so the block is the identity (adaLN-Zero, their section 3.2).

    Args:
        n_agents: N.
        width: of a row, a multiple of the heads.
        heads: of the attention.
        embedding: width E of what tells step and conditioning.
        activation: of the perceptron.
        sharing: independent or shared weights.

    Shapes:
        x `[N, B, T, width]`, embedding `[N, B, E]`, result as x
    """

    def __init__(
        self, n_agents: int, width: int, heads: int, embedding: int, activation: Activation, sharing: Sharing
    ) -> None:
        super().__init__(n_agents, sharing)
        self.heads = heads
        self.attention_in = AgentwiseLinear(n_agents, width, 3 * width, sharing)
        self.attention_out = AgentwiseLinear(n_agents, width, width, sharing)
        self.perceptron = AgentwiseMLP(n_agents, (width, 2 * width, width), activation, sharing)
        self.modulation = AgentwiseLinear(n_agents, embedding, 6 * width, sharing)
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
        split = _rowwise(self.attention_in, x).unflatten(-1, (3, self.heads, -1))  # type: ignore[no-untyped-call]
        query, key, value = split.movedim((3, 4), (0, 3)).unbind()  # each [N, B, heads, T, width / heads]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return _rowwise(self.attention_out, mixed.transpose(2, 3).flatten(3))


class TemporalTransformer(Agentwise):
    """eps_i(x_i^k, k, c_i) of every agent: the noise in agent i's window of observations, from its own row only.

    Rows of a window are tokens with the place in the window added; attention never leaves an agent, so IGD holds. A
    network shared by all agents also reads a one-hot agent id or a learned embedding of it. Padded dimensions come out
    as 0.

    Args:
        spec: the dataset's spec; D = `spec.observation_dim`.
        condition_dim: C, of what each agent conditions on.
        width: of a token, even, at least 4 and a multiple of the heads.
        depth: blocks.
        heads: of the attention.
        embedding: width of the embeddings of step and conditioning, even and at least 4.
        activation: mish, silu, relu or tanh.
        sharing: `independent` networks or one `shared` by all agents.
        agent_embedding: width of the learned embedding that a shared network reads; None means a one-hot id.

    Shapes:
        x `[B, N, T, D]`, k `[B]` int64 in 1..K, condition `[B, N, C]`, result `[B, N, T, D]`

    Raises:
        UserError: a size that does not fit.
    """

    diffuses: ClassVar[Diffuses] = "trajectories"
    agent_buffers: ClassVar[tuple[str, ...]] = ("observation_mask", "agent_id")
    fsdp_role: ClassVar[FsdpRole] = "unit"
    observation_mask: Tensor
    agent_id: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        embedding: int = 32,
        activation: Activation = "silu",
        sharing: Sharing = "independent",
        agent_embedding: int | None = None,
    ) -> None:
        n_agents = spec.n_agents
        super().__init__(n_agents, sharing)
        _check_sizes(width, depth, heads, activation)
        self.register_buffer("observation_mask", spec.environment.observation_mask())
        self.agent_embedding = build_embedding(n_agents, sharing, agent_embedding)
        identities = agent_identities(n_agents, "independent" if self.agent_embedding else sharing)
        self.register_buffer("agent_id", identities)
        self.step_embedding = SinusoidalEmbedding(embedding)
        self.step_network = AgentwiseMLP(n_agents, (embedding, 4 * embedding, embedding), activation, sharing)
        inputs = condition_dim + self._identity().shape[1]
        self.condition_network = AgentwiseMLP(n_agents, (inputs, 4 * embedding, embedding), activation, sharing)
        self.activation = ACTIVATIONS[activation]()
        self.place_embedding = SinusoidalEmbedding(width)
        self.entry = AgentwiseLinear(n_agents, spec.observation_dim, width, sharing)
        self.blocks = nn.ModuleList(
            [TransformerBlock(n_agents, width, heads, 2 * embedding, activation, sharing) for _ in range(depth)]
        )
        self.exit = AgentwiseLinear(n_agents, width, spec.observation_dim, sharing)

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """Predicts the noise in x at step k."""
        embedding = self._embed(k, condition.to(x.dtype))
        places = self.place_embedding(torch.arange(x.shape[2], device=x.device), x.dtype)
        hidden = _rowwise(self.entry, x.transpose(0, 1)) + places
        for block in self.blocks:
            hidden = block(hidden, embedding)
        noise = _rowwise(self.exit, _normalize(hidden)).transpose(0, 1)
        return noise * self.observation_mask[:, None]

    def _embed(self, k: Tensor, condition: Tensor) -> Tensor:
        """`[N, B, 2 E]`: embeddings of step and conditioning."""
        step = self.step_embedding(k, condition.dtype).expand(self.n_agents, -1, -1)
        identity = self._identity().to(condition.dtype)[:, None].expand(-1, condition.shape[0], -1)
        known = torch.cat([condition.transpose(0, 1), identity], dim=-1)
        parts = [self.step_network.agents_first(step), self.condition_network.agents_first(known)]
        return self.activation(torch.cat(parts, dim=-1))

    def _identity(self) -> Tensor:
        return self.agent_id if self.agent_embedding is None else self.agent_embedding()


def _rowwise(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An agents-first layer on `[N, B, T, D]`."""
    rows = layer(x.flatten(1, 2))
    return rows.reshape(*x.shape[:3], rows.shape[-1])


def _normalize(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _check_sizes(width: int, depth: int, heads: int, activation: str) -> None:
    if heads < 1 or width % heads or width < 4 or width % 2:
        raise UserError(f"denoiser.width={width} must be even, at least 4 and a multiple of denoiser.heads={heads}")
    if depth < 1:
        raise UserError(f"denoiser.depth={depth} must be at least 1")
    if activation not in ACTIVATIONS:
        raise UserError(f"denoiser.activation={activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
