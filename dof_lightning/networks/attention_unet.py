"""MADIFF's denoiser of trajectories: a U-Net over time per agent, whose agents meet in attention."""

from collections.abc import Sequence

from torch import Tensor, nn

from dof_lightning.networks.activation import Activation
from dof_lightning.networks.agent_attention import AttentionOverAgents
from dof_lightning.networks.agentwise import Sharing
from dof_lightning.networks.agentwise_conv import fold_agents, unfold_agents
from dof_lightning.networks.temporal_unet import TemporalUNet
from dof_lightning.spec import DatasetSpec


class AttentionUNet(TemporalUNet):
    """eps_i(x_1^k..x_N^k, k, c_1..c_N): the noise in agent i's window, from the windows of all agents.

    A `TemporalUNet` with attention over agents at the bottleneck and on what the skips hand to the decoder
    (reference/baselines_and_games.md section 1, MADIFF). Before training every gamma is 0 and each agent's network
    is a `TemporalUNet`.

    Args:
        spec: the dataset's spec; D = `spec.observation_dim`.
        condition_dim: C, of what each agent conditions on.
        channels, multipliers, blocks, bottom_blocks, kernel, norm_groups, embedding, activation: see `TemporalUNet`.
        sharing: `independent` networks or one `shared` by all agents.
        agent_embedding: width of the learned embedding that a shared network reads; None means a one-hot id.
        heads: of the attention; divides the channels of every level.

    Shapes:
        x `[B, N, T, D]`, k `[B]` int64 in 1..K, condition `[B, N, C]`, result `[B, N, T, D]`

    Raises:
        UserError: a size that does not fit.
    """

    local_execution = False

    def __init__(
        self,
        spec: DatasetSpec,
        condition_dim: int,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        kernel: int = 5,
        norm_groups: int = 8,
        embedding: int = 32,
        activation: Activation = "mish",
        sharing: Sharing = "shared",
        agent_embedding: int | None = None,
        bottom_blocks: int | None = None,
        heads: int = 4,
    ) -> None:
        sizes = (channels, multipliers, blocks, kernel, norm_groups, embedding)
        super().__init__(spec, condition_dim, *sizes, activation, sharing, agent_embedding, bottom_blocks)
        widths = [channels * multiplier for multiplier in multipliers]
        self.meetings = nn.ModuleList([AttentionOverAgents(spec.n_agents, width, heads, sharing) for width in widths])

    def _meet(self, level: int, hidden: Tensor) -> Tensor:
        """Attention over agents at a skip, or at the bottleneck (the last level)."""
        rows = unfold_agents(hidden, self.n_agents, self.groups).permute(1, 0, 3, 2)
        return fold_agents(self.meetings[level](rows).permute(1, 0, 3, 2), self.groups)
