"""MADIFF's denoiser of trajectories: a U-Net over time per agent, whose agents meet in attention."""

from dataclasses import dataclass

from torch import Tensor, nn

from dof_lightning.networks.agent_attention import AttentionOverAgents
from dof_lightning.networks.agentwise import Sharing
from dof_lightning.networks.agentwise_conv import fold_agents, unfold_agents
from dof_lightning.networks.temporal_unet import TemporalUNet, TemporalUNetSettings
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class AttentionUNetSettings(TemporalUNetSettings):
    """Settings of `AttentionUNet`.

    Attributes:
        heads: number of heads of the attention over agents; divides the channels of every level.
    """

    sharing: Sharing = "shared"
    heads: int = 4


class AttentionUNet(TemporalUNet, made_by=AttentionUNetSettings):
    """eps_i(x_1^k..x_N^k, k, c_1..c_N): the noise in agent i's window, from the windows of all agents.

    It is a `TemporalUNet` with attention over agents at the bottleneck and on the skip connections to the decoder
    (MADIFF, Zhu et al., 2024). Before training every gamma is 0 and each agent's network is a `TemporalUNet`.

    Arguments, shapes and errors are those of `TemporalDenoiser`.
    """

    local_execution = False

    def __init__(self, spec: DatasetSpec, condition_dim: int, settings: AttentionUNetSettings) -> None:
        super().__init__(spec, condition_dim, settings)
        meetings = [
            AttentionOverAgents(spec.n_agents, width, settings.heads, settings.sharing) for width in settings.widths
        ]
        self.meetings = nn.ModuleList(meetings)

    def _meet(self, level: int, hidden: Tensor) -> Tensor:
        """Applies attention over agents at a skip, or at the bottleneck (the last level)."""
        rows = unfold_agents(hidden, self.n_agents, self.groups).permute(1, 0, 3, 2)
        return fold_agents(self.meetings[level](rows).permute(1, 0, 3, 2), self.groups)
