"""Layers of N agents evaluated as one batched product, and gradient clipping that keeps the agents apart."""

import copy
import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.activation import ACTIVATIONS, Activation
from dof_lightning.sharding import first_row, local, whole_tensor

Sharing = Literal["independent", "shared"]


class Agentwise(nn.Module):
    """A module whose own tensors belong to N agents.

    With `sharing="independent"` the first dimension of each of its own parameters is `ensemble * N`, members first: row
    `m * N + i` is agent i's in member m. With `shared` its parameters belong to all agents. Submodules declare their
    own sharing.

    Args:
        n_agents: N.
        sharing: `independent` or `shared`.

    Attributes:
        agent_buffers: its own buffers whose first dimension is N, whatever the sharing.
        local_execution: agent i's results are a function of agent i's inputs only. If False, `select_agent` raises
            TypeError, because no agent has the inputs that it would need.

    Raises:
        UserError: an unknown sharing.
    """

    agent_buffers: ClassVar[tuple[str, ...]] = ()
    local_execution: bool = True

    def __init__(self, n_agents: int, sharing: Sharing) -> None:
        super().__init__()
        if sharing not in ("independent", "shared"):
            raise UserError(f"sharing={sharing!r} is unknown; choose independent or shared")
        self.n_agents = n_agents
        self.sharing = sharing

    def select_agent(self, agent: int) -> Self:
        """A copy with N = 1 that holds no other agent's tensors.

        Raises:
            IndexError: there is no such agent.
            TypeError: agents cannot run it alone (`local_execution`).
        """
        if not self.local_execution:
            raise TypeError(f"{type(self).__name__} needs all agents' inputs (local_execution is False)")
        if not 0 <= agent < self.n_agents:
            raise IndexError(f"agent {agent} of {self.n_agents}")
        selected = copy.deepcopy(self)
        for module in selected.modules():
            if isinstance(module, Agentwise):
                module._keep_agent(agent)
        return selected

    def _keep_agent(self, agent: int) -> None:
        if self.sharing == "independent":
            for name, parameter in list(self.named_parameters(recurse=False)):
                setattr(self, name, nn.Parameter(self._rows_of(agent, parameter), parameter.requires_grad))
        for name in self.agent_buffers:
            setattr(self, name, self._rows_of(agent, self.get_buffer(name)))
        self.n_agents = 1

    def _rows_of(self, agent: int, tensor: Tensor) -> Tensor:
        return tensor.detach()[agent :: self.n_agents].clone()


class AgentwiseLinear(Agentwise):
    """N linear layers (or one that N agents share) as one batched product.

    Each agent's slice is initialised as `nn.Linear` is, independently.

    Args:
        n_agents: N.
        in_features, out_features: sizes of one agent's layer.
        sharing: `independent` (weight `[ensemble * N, in, out]`) or `shared` (weight `[ensemble, in, out]`, the
            agents folded into the batch).
        ensemble: M, number of such layers side by side (2 for twin critics).

    Shapes:
        input `[M * N, B, in]`, output `[M * N, B, out]`; members first, so M = 1 means agents first.
    """

    def __init__(
        self,
        n_agents: int,
        in_features: int,
        out_features: int,
        sharing: Sharing = "independent",
        ensemble: int = 1,
    ) -> None:
        super().__init__(n_agents, sharing)
        groups = ensemble * (n_agents if sharing == "independent" else 1)
        bound = max(in_features, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Applies each agent's layer to that agent's rows."""
        groups, in_features, out_features = self.weight.shape
        rows = x.reshape(groups, -1, in_features)
        return torch.baddbmm(self.bias, rows, self.weight).reshape(*x.shape[:-1], out_features)


class AgentwiseMLP(Agentwise):
    """N multilayer perceptrons (or one that N agents share) as batched products.

    Args:
        n_agents: N.
        sizes: widths from input to output, at least two.
        activation: between the layers, none after the last: mish, relu, silu or tanh.
        sharing: see `AgentwiseLinear`.
        ensemble: M, see `AgentwiseLinear`; M > 1 is reached through `agents_first`.

    Shapes:
        input `[B, N, sizes[0]]`, output `[B, N, sizes[-1]]`; further leading dimensions are folded into B by the
        caller.

    Raises:
        UserError: an unknown activation.
    """

    def __init__(
        self,
        n_agents: int,
        sizes: Sequence[int],
        activation: Activation = "mish",
        sharing: Sharing = "independent",
        ensemble: int = 1,
    ) -> None:
        super().__init__(n_agents, sharing)
        if activation not in ACTIVATIONS:
            raise UserError(f"activation={activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
        if min(sizes[1:]) < 1:
            raise UserError(f"hidden={list(sizes[1:-1])} must hold widths of at least 1")
        layers: list[nn.Module] = []
        for in_features, out_features in itertools.pairwise(sizes):
            layers += [
                AgentwiseLinear(n_agents, in_features, out_features, sharing, ensemble),
                ACTIVATIONS[activation](),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Applies each agent's network to that agent's rows."""
        return self.agents_first(x.transpose(0, 1)).transpose(0, 1)

    def agents_first(self, x: Tensor) -> Tensor:
        """Does the same on `[M * N, B, D]`, for callers that use that layout."""
        return self.layers(x)


def agent_identities(n_agents: int, sharing: Sharing) -> Tensor:
    """Inputs that identify the agents: `[N, N]` one-hot for a shared network, `[N, 0]` otherwise."""
    return torch.eye(n_agents) if sharing == "shared" else torch.zeros(n_agents, 0)


def agentwise_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Separates a module's parameters of single agents from the others.

    Returns:
        the parameters stacked per agent along their first dimension (see `Agentwise`), and all others.
    """
    stacked: list[nn.Parameter] = []
    shared: list[nn.Parameter] = []
    for part in module.modules():
        is_stacked = isinstance(part, Agentwise) and part.sharing == "independent"
        (stacked if is_stacked else shared).extend(part.parameters(recurse=False))
    return stacked, shared


@torch.no_grad()
def clip_gradient_norm(modules: Sequence[nn.Module], max_norm: float | None) -> Tensor:
    """Clips the gradients of a group of modules in place, agent by agent.

    Agent i's gradient consists of the gradients of its slices of all stacked parameters; it is scaled by its own norm
    only, so one agent's gradients never change another's step. All other parameters are clipped together. Nothing waits
    for the device. If ranks hold parts of the parameters, norms are those of the whole gradients, and all ranks must
    call this together.

    Args:
        modules: the modules of one group; parameters without a gradient count as zero.
        max_norm: largest L2 norm; None measures without clipping.

    Returns:
        norms before clipping: `[N]` of the agents if there are stacked parameters, then one entry for the others if
            there are others; `[1]` zero if there are no parameters at all.
    """
    sorted_parameters = [agentwise_parameters(module) for module in modules]
    stacked = [p for own, _ in sorted_parameters for p in own]
    shared = [p for _, others in sorted_parameters for p in others]
    norms = []
    if stacked:
        agents = next(part.n_agents for module in modules for part in module.modules() if isinstance(part, Agentwise))
        gradients = [p.grad for p in stacked if p.grad is not None]
        norms.append(_clip_each_agent(gradients, agents, max_norm, device=stacked[0].device))
    if shared or not stacked:
        norms.append(_clip_together([p.grad for p in shared if p.grad is not None], max_norm))
    return torch.cat(norms)


def _clip_each_agent(gradients: list[Tensor], n_agents: int, max_norm: float | None, device: torch.device) -> Tensor:
    """Clips gradients `[M * N, ...]` and returns their norms `[N]`."""
    if not gradients:
        return torch.zeros(n_agents, device=device)
    norms = [_norm_of_each_agent(whole_tensor(gradient), n_agents) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    if max_norm is not None:
        scale = _clip_factor(norm, max_norm)
        for gradient, rows in zip(gradients, local(gradients), strict=True):
            owner = torch.arange(first_row(gradient), first_row(gradient) + len(rows), device=device) % n_agents
            rows.mul_(scale[owner].reshape(-1, *[1] * (rows.ndim - 1)))
    return norm


def _norm_of_each_agent(gradient: Tensor, n_agents: int) -> Tensor:
    members = torch.unflatten(gradient, 0, (-1, n_agents))
    return torch.linalg.vector_norm(members, dim=(0, *range(2, members.ndim)))


def _clip_together(gradients: list[Tensor], max_norm: float | None) -> Tensor:
    norm = nn.utils.get_total_norm([whole_tensor(gradient) for gradient in gradients])
    if max_norm is not None and gradients:
        torch._foreach_mul_(local(gradients), _clip_factor(norm, max_norm))
    return norm[None]


def _clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)
