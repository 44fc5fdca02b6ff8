"""MADIFF's denoiser for single actions: a multilayer perceptron per agent, whose agents meet in attention."""

from collections.abc import Sequence

from torch import Tensor, nn

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agent_attention import AttentionOverAgents
from dof_lightning.networks.agentwise import Sharing
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class AttentionMLP(MLPDenoiser):
    """eps_i(a_1^k..a_N^k, k, o_1..o_N): the noise in agent i's action, from the rows of all agents.

    It is an `MLPDenoiser` with attention over agents after every hidden layer [ours: MADIFF plans trajectories]. Before
    training every gamma is 0 and each agent's network is an `MLPDenoiser`.

    Shapes and all other arguments are those of `MLPDenoiser`.

    Args:
        heads: number of attention heads; divides the hidden widths.

    Raises:
        UserError: a size does not fit.
    """

    local_execution = False

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        hidden: Sequence[Count] = (256, 256, 256),
        time_embedding: Count = 16,
        sharing: Sharing = "shared",
        activation: Activation = "mish",
        agent_embedding: Count | None = None,
        heads: Count = 4,
    ) -> None:
        super().__init__(spec, condition_dim, hidden, time_embedding, sharing, activation, agent_embedding)
        self.meetings = nn.ModuleList([AttentionOverAgents(spec.n_agents, width, heads, sharing) for width in hidden])

    def predict(self, inputs: Tensor) -> Tensor:
        """Maps `[N, B, inputs]` to the noise `[N, B, A]`."""
        hidden, layers = inputs, list(self.network.layers)
        for meeting, layer, activation in zip(self.meetings, layers[0::2], layers[1::2], strict=False):
            hidden = meeting(activation(layer(hidden))[:, :, None]).squeeze(2)
        noise: Tensor = layers[-1](hidden)
        return noise
