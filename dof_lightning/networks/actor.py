"""Networks of actors that output actions directly: no noise, no chain."""

from collections.abc import Sequence

from torch import Tensor

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agentwise import AgentwiseMLP, Sharing
from dof_lightning.networks.embedding import Identified
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class AgentwiseActor(Identified):
    """mu_i(o_i) of every agent, from its own row only; a network shared by all agents also reads a one-hot agent id.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        condition_dim: C, number of entries that each agent conditions on.
        hidden: widths of the hidden layers.
        sharing: `independent` networks or one `shared` by all agents.
        activation: between the layers.
        outputs: number of outputs per entry of an action: 1, or 2 for the mean and the spread of a Gaussian.

    Shapes:
        condition `[B, N, C]`, result `[B, N, outputs * A]`
    """

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[Count] = (64, 64),
        sharing: Sharing = "independent",
        activation: Activation = "relu",
        outputs: int = 1,
    ) -> None:
        super().__init__(spec.n_agents, sharing)
        sizes = (condition_dim + self.agent_id.shape[1], *hidden, outputs * spec.action_dim)
        self.network = AgentwiseMLP(spec.n_agents, sizes, activation, sharing)

    def forward(self, condition: Tensor) -> Tensor:
        """The output of the last layer, without bounds."""
        result: Tensor = self.network(self.identified(condition))
        return result
