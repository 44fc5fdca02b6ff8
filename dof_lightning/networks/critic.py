"""Twin critics of every agent, and of the team."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import AgentwiseMLP, Sharing
from dof_lightning.networks.embedding import Embedded
from dof_lightning.settings import Count
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec

TWINS = 2


class AgentwiseCritic(Embedded):
    """Two estimates of Q_i(o_i, a_i) for every agent, from its own row only.

    Both twins of all agents are one batched product (twin critics: TD3, Fujimoto et al., 2018). A critic shared by all
    agents also reads a one-hot agent id or a learned embedding of it.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        condition_dim: C, number of entries that each agent's critic conditions on.
        hidden: widths of the hidden layers.
        sharing: `independent` critics or one pair `shared` by all agents.
        activation: between the layers; on a CPU mish takes twice the time of silu.
        agent_embedding: width of the learned embedding that a shared critic reads; None means a one-hot id.

    Shapes:
        condition `[B, N, C]`, actions `[B, N, A]`, result `[2, B, N]`
    """

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[Count] = (256, 256, 256),
        sharing: Sharing = "independent",
        activation: Activation = "mish",
        agent_embedding: Count | None = None,
    ) -> None:
        super().__init__(spec.n_agents, sharing, agent_embedding)
        inputs = condition_dim + spec.action_dim + self.identities().shape[1]
        self.network = AgentwiseMLP(spec.n_agents, (inputs, *hidden, 1), activation, sharing, TWINS)

    def forward(self, condition: Tensor, actions: Tensor) -> Tensor:
        """Values of each agent's own action under both twins."""
        inputs = self.identified(condition, actions).transpose(0, 1)
        values = self.network.agents_first(inputs.repeat(TWINS, 1, 1))
        return values.reshape(TWINS, self.n_agents, -1).transpose(1, 2)


class JointCritic(nn.Module):
    """Two estimates of one Q(s, a_1..a_N) of the whole team: for training only.

    Args:
        spec: the dataset's spec; all agents' actions are read side by side.
        context_dim: dimensions of the state, or of all observations side by side.
        hidden: widths of the hidden layers.
        activation: between the layers; on a CPU mish takes twice the time of silu.

    Shapes:
        context `[B, context_dim]`, actions `[B, N, A]`, result `[2, B, 1]`
    """

    fsdp_role: ClassVar[FsdpRole] = "unit"

    def __init__(
        self,
        spec: DatasetSpec,
        context_dim: int,
        hidden: Sequence[Count] = (256, 256, 256),
        activation: Activation = "mish",
    ) -> None:
        super().__init__()
        sizes = (context_dim + spec.n_agents * spec.action_dim, *hidden, 1)
        self.network = AgentwiseMLP(spec.n_agents, sizes, activation, "shared", TWINS)

    def forward(self, context: Tensor, actions: Tensor) -> Tensor:
        """Values of the joint action under both twins."""
        inputs = torch.cat([context, actions.flatten(1)], dim=-1)
        values: Tensor = self.network.agents_first(inputs.expand(TWINS, -1, -1))
        return values
