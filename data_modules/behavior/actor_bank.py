"""Deterministic actors and the behaviour policies made of them."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dof_lightning.networks.agentwise import Agentwise, AgentwiseMLP
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec


class ActorBank(Agentwise):
    """N actors: two ReLU layers, tanh output.

    Args:
        n_agents: N.
        observation_dim: O.
        action_dim: A.
        hidden: width of the layers; the OMAR paper has 64.
    """

    def __init__(self, n_agents: int, observation_dim: int, action_dim: int, hidden: int = 64) -> None:
        super().__init__(n_agents, "independent")
        sizes = (observation_dim, hidden, hidden, action_dim)
        self.network = AgentwiseMLP(n_agents, sizes, activation="relu", sharing="independent")

    def forward(self, observations: Tensor) -> Tensor:
        """`[B, N, O]` to actions `[B, N, A]` in [-1, 1]."""
        return torch.tanh(self.network(observations))


def team_of(followed: Sequence[ActorBank]) -> ActorBank:
    """A team whose agent i acts as agent i of the i-th bank does; there are N banks of the same size."""
    team = copy.deepcopy(followed[0])
    weights = [bank.state_dict() for bank in followed]
    team.load_state_dict({key: torch.stack([own[key][i] for i, own in enumerate(weights)]) for key in weights[0]})
    return team


class GaussianBehavior(DecentralizedPolicy):
    """Actors with Gaussian exploration noise, clipped to [-1, 1].

    Args:
        actors: N actors.
        exploration_noise: standard deviation of the noise, one number for all agents or one per agent; with 0 they act
            greedily.
        action_dim: A.
    """

    exploration_noise: Tensor

    def __init__(
        self, actors: ActorBank, n_agents: int, action_dim: int, exploration_noise: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.actors = actors
        self.n_agents = n_agents
        self.action_dim = action_dim
        noise = torch.as_tensor(exploration_noise, dtype=torch.float32).expand(n_agents)
        self.register_buffer("exploration_noise", noise[:, None].clone(), persistent=False)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, A]`."""
        return torch.randn(n_episodes, self.n_agents, self.action_dim, generator=generator, device=generator.device)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The actors' actions plus scaled noise."""
        return (self.actors(observations) + self.exploration_noise * noise).clamp(-1, 1), carry


class UniformBehavior(DecentralizedPolicy):
    """Uniform actions in [-1, 1], or uniform among the legal choices: the random policy of an environment."""

    action_mask: Tensor

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.n_agents = spec.n_agents
        self.discrete = spec.action_kind == "discrete"
        self.register_buffer("action_mask", spec.action_mask(), persistent=False)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Uniform `[E, N, A]` in [-1, 1)."""
        shape = (n_episodes, self.n_agents, self.action_mask.shape[1])
        return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Returns the noise itself, or the legal choice with the largest noise."""
        if not self.discrete:
            return noise * self.action_mask, carry
        allowed = self.action_mask if legal is None else self.action_mask & legal
        return noise.masked_fill(~allowed, -torch.inf).argmax(-1), carry
