"""Base of all denoisers: the data they are for, the agents' identities, and the embedding of the diffusion step."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import AgentwiseMLP, Sharing
from dof_lightning.networks.embedding import Embedded
from dof_lightning.spec import DatasetSpec

Diffuses = Literal["actions", "trajectories"]


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a diffusion step at frequencies from 1 down to 1/10000 (Vaswani et al., 2017).

    Args:
        dim: width of the embedding, even and at least 4.
        key: the key by which a user sets it, for the message.

    Raises:
        UserError: `dim` is odd or below 4.

    Shapes:
        k `[B]` int64, result `[B, dim]`
    """

    frequencies: Tensor

    def __init__(self, dim: int, key: str = "denoiser.time_embedding") -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise UserError(f"{key}={dim} must be even and at least 4")
        half = dim // 2
        exponent = torch.arange(half, dtype=torch.float64) / (half - 1)
        self.register_buffer("frequencies", torch.exp(-math.log(10_000.0) * exponent), persistent=False)

    def forward(self, k: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Embeds steps, in the dtype that the network computes in."""
        angle = k.to(dtype)[:, None] * self.frequencies.to(dtype)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Denoiser(Embedded):
    """Predicts the noise in every agent's part of x^k: maps `(x, k, condition)` to a prediction of x's shape.

    A network shared by all agents also reads a one-hot agent id or a learned embedding of it. Subclasses build their
    layers on `identity` and `step`, and set the predictions of padded dimensions to 0.

    Args:
        spec: the dataset's spec.
        step_sizes: widths of the network that embeds k, from the sinusoidal embedding on.
        activation: the activation between its layers.
        sharing: `independent` networks or one `shared` by all agents.
        agent_embedding: width of the learned embedding that a shared network reads; None means a one-hot id.

    Shapes:
        x `[B, N, ...]`, k `[B]` int64 in 1..K, condition `[B, N, C]`, result `[B, N, ...]`

    Attributes:
        diffuses: what x is; an algorithm and its denoiser must agree, which `config.checks` ensures.
        local_execution: see `Agentwise`; False if the agents' rows meet.
    """

    diffuses: ClassVar[Diffuses]
    embedding_key: ClassVar[str] = "denoiser.embedding"  # the key that sets the width of the step's embedding

    def __init__(
        self,
        spec: DatasetSpec,
        step_sizes: tuple[int, ...],
        activation: Activation,
        sharing: Sharing,
        agent_embedding: int | None,
    ) -> None:
        super().__init__(spec.n_agents, sharing, agent_embedding)
        self.step_embedding = SinusoidalEmbedding(step_sizes[0], self.embedding_key)
        self.step_network = AgentwiseMLP(spec.n_agents, step_sizes, activation, sharing)

    @property
    def identity_width(self) -> int:
        """The width of `identity`."""
        return self.identities().shape[1]

    def identity(self, batch: int, dtype: torch.dtype) -> Tensor:
        """`[N, B, identity_width]`: `identities` for a batch."""
        return self.identities().to(dtype)[:, None].expand(-1, batch, -1)

    def step(self, k: Tensor, dtype: torch.dtype) -> Tensor:
        """`[N, B, step_sizes[-1]]`: embeddings of the diffusion steps `[B]`."""
        sines = self.step_embedding(k, dtype).expand(self.n_agents, -1, -1)
        return self.step_network.agents_first(sines)
