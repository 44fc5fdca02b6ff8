"""The denoisers of DoF-Policy: one multilayer perceptron per agent."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import Agentwise, AgentwiseMLP, Sharing, agent_identities
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.embedding import build_embedding
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a diffusion step at frequencies from 1 down to 1/10000 (Vaswani et al., 2017).

    Args:
        dim: of the embedding, even and at least 4.

    Raises:
        UserError: it is not.

    Shapes:
        k `[B]` int64, result `[B, dim]`
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise UserError(f"denoiser.time_embedding={dim} must be even and at least 4")
        half = dim // 2
        exponent = torch.arange(half, dtype=torch.float64) / (half - 1)
        self.register_buffer("frequencies", torch.exp(-math.log(10_000.0) * exponent), persistent=False)

    def forward(self, k: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Embeds steps, in the dtype that the network computes in."""
        angle = k.to(dtype)[:, None] * self.frequencies.to(dtype)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MLPDenoiser(Agentwise):
    """eps_i(a_i^k, k, o_i) of every agent: the noise in agent i's action, from its own row only.

    [a_i^k | embedding of k, 16 -> 32 -> 16 | o_i] -> hidden layers -> A (DoF-Policy; reference/method.md
    section 3, after Diffusion-QL, Wang et al., 2023). A network shared by all agents also reads a one-hot agent id or a
    learned embedding of it. Padded action dimensions come out as 0.

    Args:
        spec: the dataset's spec; D = `spec.action_dim`.
        condition_dim: C, of what each agent conditions on.
        hidden: widths of the hidden layers.
        time_embedding: width of the step's embedding.
        sharing: `independent` networks or one `shared` by all agents.
        activation: between the layers; on a CPU mish takes twice the time of silu.
        agent_embedding: width of the learned embedding that a shared network reads; None means a one-hot id.

    Shapes:
        x `[B, N, D]`, k `[B]` int64 in 1..K, condition `[B, N, C]`, result `[B, N, D]`
    """

    diffuses: ClassVar[Diffuses] = "actions"
    agent_buffers: ClassVar[tuple[str, ...]] = ("action_mask", "agent_id")
    fsdp_role: ClassVar[FsdpRole] = "unit"
    action_mask: Tensor
    agent_id: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        time_embedding: int = 16,
        sharing: Sharing = "independent",
        activation: Activation = "mish",
        agent_embedding: int | None = None,
    ) -> None:
        n_agents = spec.n_agents
        super().__init__(n_agents, sharing)
        self.register_buffer("action_mask", spec.environment.action_mask())
        self.agent_embedding = build_embedding(n_agents, sharing, agent_embedding)
        identities = agent_identities(n_agents, "independent" if self.agent_embedding else sharing)
        self.register_buffer("agent_id", identities)
        self.step_embedding = SinusoidalEmbedding(time_embedding)
        self.step_network = AgentwiseMLP(
            n_agents, (time_embedding, 2 * time_embedding, time_embedding), activation, sharing
        )
        inputs = spec.action_dim + time_embedding + condition_dim + self._identity().shape[1]
        self.network = AgentwiseMLP(n_agents, (inputs, *hidden, spec.action_dim), activation, sharing)

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """Predicts the noise in x at step k."""
        batch = x.shape[0]
        step = self.step_embedding(k, x.dtype).expand(self.n_agents, -1, -1)
        parts = [x.transpose(0, 1), self.step_network.agents_first(step), condition.transpose(0, 1)]
        identity = self._identity().to(x.dtype)[:, None].expand(-1, batch, -1)
        noise = self.network.agents_first(torch.cat([*parts, identity], dim=-1)).transpose(0, 1)
        return noise * self.action_mask

    def _identity(self) -> Tensor:
        return self.agent_id if self.agent_embedding is None else self.agent_embedding()
