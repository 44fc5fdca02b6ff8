"""The denoiser of DoF-Trajectory: one U-Net over time per agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.networks.activation import ACTIVATIONS
from dof_lightning.networks.agentwise import Agentwise, AgentwiseLinear
from dof_lightning.networks.agentwise_conv import (
    AgentwiseConv1d,
    AgentwiseGroupNorm,
    AgentwiseUpsample,
    fold_agents,
    unfold_agents,
)
from dof_lightning.networks.temporal import TemporalDenoiser, TemporalSettings
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class TemporalUNetSettings(TemporalSettings):
    """Settings of `TemporalUNet`.

    Attributes:
        channels: number of channels of the first level.
        multipliers: channels of each level as multiples of the first level's; each further level halves the time.
        blocks: number of residual blocks per level, both on the way down and on the way up.
        bottom_blocks: number of residual blocks at the lowest resolution; None means as many as `blocks`.
        kernel: width of the convolutions, odd.
        norm_groups: number of groups of the group normalisations; divides the channels of every level.
    """

    channels: int = 32
    multipliers: Sequence[int] = (1, 2)
    blocks: Count = 1
    bottom_blocks: Count | None = None
    kernel: int = 5
    norm_groups: int = 8

    @property
    def widths(self) -> list[int]:
        """The number of channels of each level."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    def check(self) -> None:
        """See the base class."""
        if not self.multipliers or min(self.channels, *self.multipliers) < 1:
            raise UserError(
                f"denoiser.channels={self.channels}, denoiser.multipliers={list(self.multipliers)} must be at least 1"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"denoiser.kernel={self.kernel} must be odd, so that a window keeps its length")


class ResidualBlock(Agentwise):
    """Twice (convolution, group normalisation, activation), the embedding added in between, around a short cut.

    Args:
        n_agents: N.
        in_channels, out_channels: numbers of channels of one agent.
        settings: the network's settings.

    Shapes:
        x `[B * N / G, G * in, T]` (see `fold_agents`), embedding `[N, B, 2 E]`, result `[B * N / G, G * out, T]`
    """

    def __init__(self, n_agents: int, in_channels: int, out_channels: int, settings: TemporalUNetSettings) -> None:
        kernel, norm_groups, sharing = settings.kernel, settings.norm_groups, settings.sharing
        super().__init__(n_agents, sharing)
        self.first = AgentwiseConv1d(n_agents, in_channels, out_channels, kernel, sharing)
        self.second = AgentwiseConv1d(n_agents, out_channels, out_channels, kernel, sharing)
        self.first_norm = AgentwiseGroupNorm(n_agents, out_channels, norm_groups, sharing)
        self.second_norm = AgentwiseGroupNorm(n_agents, out_channels, norm_groups, sharing)
        self.activation = ACTIVATIONS[settings.activation]()
        self.from_embedding = AgentwiseLinear(n_agents, 2 * settings.embedding, out_channels, sharing)
        self.short_cut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.short_cut = AgentwiseConv1d(n_agents, in_channels, out_channels, 1, sharing)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Applies each agent's block to that agent's channels."""
        hidden = self.activation(self.first_norm(self.first(x)))
        added = self.from_embedding(embedding).transpose(0, 1)[..., None]
        hidden = hidden + fold_agents(added, hidden.shape[1] // added.shape[2])
        hidden = self.activation(self.second_norm(self.second(hidden)))
        return hidden + self.short_cut(x)


class TemporalUNet(TemporalDenoiser, made_by=TemporalUNetSettings):
    """eps_i(x_i^k, k, c_i) of every agent: the noise in agent i's window of observations, from its own row only.

    Residual blocks at falling resolutions of time and back (Diffuser, Janner et al., 2022; Li et al., 2025), all agents
    as grouped convolutions. The embedding of k and that of the conditioning are added in every block. A network shared
    by all agents also reads a one-hot agent id or a learned embedding of it. Windows may have any length: their last
    row is repeated up to the next multiple of 2^(levels - 1). Padded dimensions come out as 0.

    Arguments, shapes and errors are those of `TemporalDenoiser`.
    """

    def __init__(self, spec: DatasetSpec, condition_dim: int, settings: TemporalUNetSettings) -> None:
        super().__init__(spec, condition_dim, settings)
        n_agents, kernel, sharing = spec.n_agents, settings.kernel, settings.sharing
        self.groups = n_agents if sharing == "independent" else 1
        widths = settings.widths

        def stack(inside: int, outside: int, count: int = settings.blocks) -> nn.ModuleList:
            channels = [inside, *[outside] * count]
            return nn.ModuleList(ResidualBlock(n_agents, *pair, settings) for pair in pairwise(channels))

        self.entry = AgentwiseConv1d(n_agents, spec.observation_dim, widths[0], kernel, sharing)
        self.down = nn.ModuleList([stack(width, width) for width in widths[:-1]])
        self.shrink = nn.ModuleList(
            [AgentwiseConv1d(n_agents, own, below, 3, sharing, stride=2) for own, below in pairwise(widths)]
        )
        at_bottom = settings.blocks if settings.bottom_blocks is None else settings.bottom_blocks
        self.bottom = stack(widths[-1], widths[-1], at_bottom)
        self.grow = nn.ModuleList([AgentwiseUpsample(n_agents, below, own, sharing) for own, below in pairwise(widths)])
        self.up = nn.ModuleList([stack(2 * width, width) for width in widths[:-1]])
        self.exit = AgentwiseConv1d(n_agents, widths[0], spec.observation_dim, 1, sharing)

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """Predicts the noise in x at step k."""
        length, multiple = x.shape[2], 2 ** len(self.shrink)
        embedding = self.embed(k, condition.to(x.dtype))
        hidden = fold_agents(x.transpose(2, 3), self.groups)
        if short := -length % multiple:
            hidden = functional.pad(hidden, (0, short), mode="replicate")
        hidden = self.entry(hidden)
        skipped: list[Tensor] = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            hidden = _through(blocks, hidden, embedding)
            skipped.append(self._meet(len(skipped), hidden))
            hidden = shrink(hidden)
        hidden = self._meet(len(skipped), _through(self.bottom, hidden, embedding))
        for blocks, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            hidden = _through(blocks, self._side_by_side(grow(hidden), skipped.pop()), embedding)
        noise = unfold_agents(self.exit(hidden), self.n_agents, self.groups)[..., :length].transpose(2, 3)
        return noise * self.observation_mask[:, None]

    def _meet(self, level: int, hidden: Tensor) -> Tensor:
        """Hook at each skip and at the bottleneck (the last level), where agents could meet; here they do not."""
        return hidden

    def _side_by_side(self, *parts: Tensor) -> Tensor:
        """Joins the parts so that each agent's channels of all parts are together."""
        split = [part.unflatten(1, (self.groups, -1)) for part in parts]  # type: ignore[no-untyped-call]
        return torch.cat(split, dim=2).flatten(1, 2)

    def _keep_agent(self, agent: int) -> None:
        super()._keep_agent(agent)
        self.groups = 1


def _through(blocks: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, embedding)
    return x
