"""Base of denoisers over time: embeddings of the step, the conditioning and the agents' identities."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dof_lightning.networks.activation import ACTIVATIONS, Activation
from dof_lightning.networks.agentwise import AgentwiseMLP, Sharing
from dof_lightning.networks.denoiser import Denoiser, Diffuses
from dof_lightning.settings import Settings
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class TemporalSettings(Settings):
    """Settings of a denoiser over time that names them (`made_by`); called with spec and `condition_dim`, builds it.

    Attributes:
        embedding: width E of the embeddings of step and conditioning, even and at least 4.
        activation: mish, silu, relu or tanh.
        sharing: `independent` networks or one `shared` by all agents.
        agent_embedding: width of the learned embedding that a shared network reads; None means a one-hot id.
    """

    group: ClassVar[str] = "denoiser"
    _made: ClassVar[type["TemporalDenoiser"]]

    embedding: int = 32
    activation: Activation = "mish"
    sharing: Sharing = "independent"
    agent_embedding: int | None = None

    @classmethod
    def makes(cls) -> type["TemporalDenoiser"]:
        """The denoiser's class that these settings build."""
        return cls._made

    def __call__(self, spec: DatasetSpec, condition_dim: int) -> "TemporalDenoiser":
        """Builds the denoiser for a dataset; each agent conditions on `condition_dim` numbers."""
        return self.makes()(spec, condition_dim, self)


class TemporalDenoiser(Denoiser):
    """eps_i(x_i^k, k, c_i) of every agent: the noise in agent i's window of observations.

    Args:
        spec: the dataset's spec; D = `spec.observation_dim`.
        condition_dim: C, number of entries that each agent conditions on.
        settings: the network's own: sizes, activation, sharing.

    Shapes:
        x `[B, N, T, D]`, k `[B]` int64 in 1..K, condition `[B, N, C]`, result `[B, N, T, D]`

    Raises:
        UserError: a size does not fit.
    """

    diffuses: ClassVar[Diffuses] = "trajectories"
    agent_buffers: ClassVar[tuple[str, ...]] = ("observation_mask", "agent_id")
    observation_mask: Tensor

    def __init_subclass__(cls, made_by: type[TemporalSettings] | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if made_by is not None:
            made_by._made = cls

    def __init__(self, spec: DatasetSpec, condition_dim: int, settings: TemporalSettings) -> None:
        width, activation, sharing = settings.embedding, settings.activation, settings.sharing
        super().__init__(spec, (width, 4 * width, width), activation, sharing, settings.agent_embedding)
        self.register_buffer("observation_mask", spec.environment.observation_mask())
        sizes = (condition_dim + self.identity_width, 4 * width, width)
        self.condition_network = AgentwiseMLP(spec.n_agents, sizes, activation, sharing)
        self.activation = ACTIVATIONS[activation]()

    def embed(self, k: Tensor, condition: Tensor) -> Tensor:
        """`[N, B, 2 E]`: embeddings of step and conditioning."""
        known = torch.cat([condition.transpose(0, 1), self.identity(condition.shape[0], condition.dtype)], dim=-1)
        parts = [self.step(k, condition.dtype), self.condition_network.agents_first(known)]
        return self.activation(torch.cat(parts, dim=-1))
