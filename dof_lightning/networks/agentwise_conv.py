"""Layers of temporal networks: one-dimensional convolutions of N agents as one grouped convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import Agentwise, Sharing


def fold_agents(x: Tensor, groups: int) -> Tensor:
    """Reshapes `[B, N, C, T]` to these layers' layout: `[B, N * C, T]` with G = N, `[B * N, C, T]` with G = 1."""
    batch, n_agents, channels, length = x.shape
    return x.reshape(batch * n_agents // groups, groups * channels, length)


def unfold_agents(x: Tensor, n_agents: int, groups: int) -> Tensor:
    """Inverse of `fold_agents`."""
    rows, channels, length = x.shape
    return x.reshape(rows * groups // n_agents, n_agents, channels // groups, length)


class AgentwiseConv1d(Agentwise):
    """N convolutions over time (or one that N agents share) as one grouped convolution.

    Each agent's slice is initialised as `nn.Conv1d` is, independently.

    Args:
        n_agents: N.
        in_channels, out_channels: numbers of channels of one agent.
        kernel: width, odd; the length is kept with `stride=1` and halved (rounded up) with 2.
        sharing: `independent` (weight `[N, out, in, kernel]`, G = N) or `shared` (weight `[1, ...]`, G = 1).
        stride: step between outputs.

    Shapes:
        input `[B * N / G, G * in, T]`, output `[B * N / G, G * out, T / stride]` (see `fold_agents`)
    """

    def __init__(
        self, n_agents: int, in_channels: int, out_channels: int, kernel: int, sharing: Sharing, stride: int = 1
    ) -> None:
        super().__init__(n_agents, sharing)
        groups, bound = _groups(n_agents, sharing), (in_channels * kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(groups, out_channels, in_channels, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, out_channels).uniform_(-bound, bound))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Applies each agent's filters to that agent's channels."""
        groups, padding = self.weight.shape[0], self.weight.shape[-1] // 2
        weight, bias = self.weight.flatten(0, 1), self.bias.flatten()
        return functional.conv1d(x, weight, bias, self.stride, padding, groups=groups)


class AgentwiseUpsample(Agentwise):
    """Doubles the length by a transposed convolution of kernel 4, each agent by its own (or all by a shared one).

    Args:
        n_agents: N.
        in_channels, out_channels: numbers of channels of one agent.
        sharing: see `AgentwiseConv1d`.

    Shapes:
        input `[B * N / G, G * in, T]`, output `[B * N / G, G * out, 2 T]`
    """

    def __init__(self, n_agents: int, in_channels: int, out_channels: int, sharing: Sharing) -> None:
        super().__init__(n_agents, sharing)
        groups, bound = _groups(n_agents, sharing), (out_channels * 4) ** -0.5
        self.weight = nn.Parameter(torch.empty(groups, in_channels, out_channels, 4).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, out_channels).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Applies each agent's filters to that agent's channels."""
        weight, bias = self.weight.flatten(0, 1), self.bias.flatten()
        return functional.conv_transpose1d(x, weight, bias, stride=2, padding=1, groups=self.weight.shape[0])


class AgentwiseGroupNorm(Agentwise):
    """Group normalisation over each agent's own channels and times: agents never meet, so IGD holds.

    Args:
        n_agents: N.
        channels: number of channels of one agent.
        norm_groups: number of groups of one agent's channels.
        sharing: sharing of scale and shift.

    Shapes:
        `[B * N / G, G * channels, T]`

    Raises:
        UserError: the groups do not divide the channels.
    """

    def __init__(self, n_agents: int, channels: int, norm_groups: int, sharing: Sharing) -> None:
        super().__init__(n_agents, sharing)
        if norm_groups < 1 or channels % norm_groups:
            raise UserError(f"denoiser.norm_groups={norm_groups} must divide the channels of every level, {channels}")
        groups = _groups(n_agents, sharing)
        self.norm_groups = norm_groups
        self.weight = nn.Parameter(torch.ones(groups, channels))
        self.bias = nn.Parameter(torch.zeros(groups, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises, scales and shifts."""
        groups = self.weight.shape[0] * self.norm_groups
        # Not `functional.group_norm`, which refuses groups of one value if the batch has one row, and only then.
        return torch.group_norm(x, groups, self.weight.flatten(), self.bias.flatten())


def _groups(n_agents: int, sharing: Sharing) -> int:
    return n_agents if sharing == "independent" else 1
