"""The denoisers of DoF-Policy: one multilayer perceptron per agent."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import AgentwiseMLP, Sharing
from dof_lightning.networks.denoiser import Denoiser, Diffuses
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class MLPDenoiser(Denoiser):
    """eps_i(a_i^k, k, o_i) of every agent: the noise in agent i's action, from its own row only.

    [a_i^k | embedding of k, 16 -> 32 -> 16 | o_i] -> hidden layers -> A (DoF-Policy, Li et al., 2025,
    after Diffusion-QL, Wang et al., 2023). A network shared by all agents also reads a one-hot agent id or a
    learned embedding of it. Padded action dimensions come out as 0.

    Args:
        spec: the dataset's spec; D = `spec.action_dim`.
        condition_dim: C, number of entries that each agent conditions on.
        hidden: widths of the hidden layers.
        time_embedding: width of the step's embedding.
        sharing: `independent` networks or one `shared` by all agents.
        activation: between the layers; on a CPU mish takes twice the time of silu.
        agent_embedding: width of the learned embedding that a shared network reads; None means a one-hot id.

    Shapes:
        x `[B, N, D]`, k `[B]` int64 in 1..K, condition `[B, N, C]`, result `[B, N, D]`
    """

    diffuses: ClassVar[Diffuses] = "actions"
    embedding_key = "denoiser.time_embedding"
    agent_buffers: ClassVar[tuple[str, ...]] = ("action_mask", "agent_id")
    action_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[Count] = (256, 256, 256),
        time_embedding: Count = 16,
        sharing: Sharing = "independent",
        activation: Activation = "mish",
        agent_embedding: Count | None = None,
    ) -> None:
        step_sizes = (time_embedding, 2 * time_embedding, time_embedding)
        super().__init__(spec, step_sizes, activation, sharing, agent_embedding)
        self.register_buffer("action_mask", spec.environment.action_mask())
        inputs = spec.action_dim + time_embedding + condition_dim + self.identity_width
        self.network = AgentwiseMLP(spec.n_agents, (inputs, *hidden, spec.action_dim), activation, sharing)

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """Predicts the noise in x at step k."""
        parts = [
            x.transpose(0, 1),
            self.step(k, x.dtype),
            condition.transpose(0, 1),
            self.identity(x.shape[0], x.dtype),
        ]
        return self.predict(torch.cat(parts, dim=-1)).transpose(0, 1) * self.action_mask

    def predict(self, inputs: Tensor) -> Tensor:
        """Maps `[N, B, inputs]` to the noise `[N, B, A]`."""
        return self.network.agents_first(inputs)
