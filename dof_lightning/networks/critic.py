"""Twin critics per agent."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.networks.agentwise import Activation, Agentwise, AgentwiseMLP, Sharing, agent_identities
from dof_lightning.spec import DatasetSpec

TWINS = 2


class AgentwiseCritic(Agentwise):
    """Two estimates of Q_i(o_i, a_i) for every agent, from its own row only.

    Both twins of all agents are one batched product (twin critics: TD3, Fujimoto et al., 2018; reference/method.md
    section 3). A critic shared by all agents also reads a one-hot agent id.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        condition_dim: C, of what each agent's critic conditions on.
        hidden: widths of the hidden layers.
        sharing: `independent` critics or one pair `shared` by all agents.
        activation: between the layers; on a CPU mish costs as much as the products, silu a seventh of that.

    Shapes:
        condition `[B, N, C]`, actions `[B, N, A]`, result `[2, B, N]`
    """

    agent_buffers: ClassVar[tuple[str, ...]] = ("agent_id",)
    agent_id: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        sharing: Sharing = "independent",
        activation: Activation = "mish",
    ) -> None:
        super().__init__(spec.n_agents, sharing)
        self.register_buffer("agent_id", agent_identities(spec.n_agents, sharing))
        inputs = condition_dim + spec.action_dim + self.agent_id.shape[1]
        self.network = AgentwiseMLP(spec.n_agents, (inputs, *hidden, 1), activation, sharing, TWINS)

    def forward(self, condition: Tensor, actions: Tensor) -> Tensor:
        """Values of each agent's own action under both twins."""
        identity = self.agent_id.to(actions.dtype).expand(actions.shape[0], -1, -1)
        inputs = torch.cat([condition, actions, identity], dim=-1).transpose(0, 1)
        values = self.network.agents_first(inputs.repeat(TWINS, 1, 1))
        return values.reshape(TWINS, self.n_agents, -1).transpose(1, 2)
