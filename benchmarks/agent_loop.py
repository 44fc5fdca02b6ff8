"""The yardstick of batching over agents: the same networks as one `nn.Module` per agent, called in a Python loop."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.subjects import Update
from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.networks.agentwise import AgentwiseLinear, AgentwiseMLP, clip_gradient_norm
from dof_lightning.networks.critic import TWINS, AgentwiseCritic
from dof_lightning.networks.mlp import MLPDenoiser


class AgentDenoiser(nn.Module):
    """eps_i of one agent, from plain layers."""

    def __init__(self, bank: MLPDenoiser, agent: int) -> None:
        super().__init__()
        self.step_embedding = copy.deepcopy(bank.step_embedding)
        self.step_network = plain_mlp(bank.step_network, agent)
        self.network = plain_mlp(bank.network, agent)

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """Computes eps_i `[B, A]` from x `[B, A]`, k `[B]` and condition `[B, C]`."""
        noise: Tensor = self.network(torch.cat([x, self.step_network(self.step_embedding(k, x.dtype)), condition], 1))
        return noise


class AgentCritic(nn.Module):
    """Both Q_i of one agent, from plain layers."""

    def __init__(self, bank: AgentwiseCritic, agent: int) -> None:
        super().__init__()
        self.twins = nn.ModuleList(plain_mlp(bank.network, twin * bank.n_agents + agent) for twin in range(TWINS))

    def forward(self, condition: Tensor, actions: Tensor) -> Tensor:
        """Computes both values `[2, B]` from condition `[B, C]` and actions `[B, A]`."""
        inputs = torch.cat([condition, actions], dim=1)
        return torch.stack([twin(inputs)[:, 0] for twin in self.twins])


class DenoiserLoop(nn.Module):
    """Computes the same as `MLPDenoiser`, agent after agent, with a copy of its weights."""

    local_execution = True

    def __init__(self, bank: MLPDenoiser) -> None:
        super().__init__()
        self.n_agents = bank.n_agents
        self.agents = nn.ModuleList(AgentDenoiser(bank, agent) for agent in range(bank.n_agents))

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """See `MLPDenoiser.forward`."""
        return torch.stack([agent(x[:, i], k, condition[:, i]) for i, agent in enumerate(self.agents)], dim=1)


class CriticLoop(nn.Module):
    """Computes the same as `AgentwiseCritic`, agent after agent, with a copy of its weights."""

    def __init__(self, bank: AgentwiseCritic) -> None:
        super().__init__()
        self.agents = nn.ModuleList(AgentCritic(bank, agent) for agent in range(bank.n_agents))

    def forward(self, condition: Tensor, actions: Tensor) -> Tensor:
        """See `AgentwiseCritic.forward`."""
        return torch.stack([agent(condition[:, i], actions[:, i]) for i, agent in enumerate(self.agents)], dim=2)


class LoopUpdate(Update):
    """A training step whose networks and clipping go through the agents one by one."""

    def _clip(self, modules: Sequence[nn.Module], limit: float | None) -> None:
        parts = [part for module in modules for part in module.modules()]
        for agent in [part for part in parts if isinstance(part, (AgentDenoiser, AgentCritic))]:
            clip_gradient_norm([agent], limit)


def loop_algorithm(algorithm: DoFPolicy) -> DoFPolicy:
    """A copy of an algorithm whose networks are loops; its losses and weights are the same."""
    loop = copy.deepcopy(algorithm)
    for name in ("denoiser", "average_denoiser"):
        setattr(loop, name, _as_its_model(DenoiserLoop(getattr(algorithm, name)), getattr(algorithm, name)))
    if algorithm.critic is not None and loop.critic is not None:
        for critic, bank in (
            (loop.critic.online, algorithm.critic.online.critic),
            (loop.critic.target, algorithm.critic.target.critic),
        ):
            assert bank is not None
            critic.critic = _as_its_model(CriticLoop(bank), bank)  # type: ignore[assignment]
    return loop


def loop_actor(actor: DiffusionActor) -> DiffusionActor:
    """A copy of a policy whose networks are loops; it acts the same."""
    loop = copy.deepcopy(actor)
    loop.denoiser = DenoiserLoop(cast(MLPDenoiser, actor.denoiser))  # type: ignore[assignment]
    loop.critic = None if actor.critic is None else CriticLoop(actor.critic)  # type: ignore[assignment]
    return loop


def plain_mlp(bank: AgentwiseMLP, row: int) -> nn.Sequential:
    """The layers of one row (`member * N + agent`) as `nn.Linear`, with its weights."""
    layers = [_linear(part, row) if isinstance(part, AgentwiseLinear) else type(part)() for part in bank.layers]
    return nn.Sequential(*layers)


def _linear(bank: AgentwiseLinear, row: int) -> nn.Linear:
    _, in_features, out_features = bank.weight.shape
    layer = nn.Linear(in_features, out_features)
    with torch.no_grad():
        layer.weight.copy_(bank.weight[row].t())
        layer.bias.copy_(bank.bias[row, 0])
    return layer


def _as_its_model(module: nn.Module, model: nn.Module) -> nn.Module:
    learns = any(parameter.requires_grad for parameter in model.parameters())
    return module.requires_grad_(learns).train(model.training)
