"""Deterministic actors and the behaviour policies made of them."""

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
        hidden: width of the layers; 64 is the OMAR paper's.
    """

    def __init__(self, n_agents: int, observation_dim: int, action_dim: int, hidden: int = 64) -> None:
        super().__init__(n_agents, "independent")
        sizes = (observation_dim, hidden, hidden, action_dim)
        self.network = AgentwiseMLP(n_agents, sizes, activation="relu", sharing="independent")

    def forward(self, observations: Tensor) -> Tensor:
        """`[B, N, O]` to actions `[B, N, A]` in [-1, 1]."""
        return torch.tanh(self.network(observations))


class GaussianBehavior(DecentralizedPolicy):
    """Actors with Gaussian exploration noise, clipped to [-1, 1].

    Args:
        actors: N actors.
        exploration_noise: standard deviation of the noise; 0 acts greedily.
        action_dim: A.
    """

    def __init__(self, actors: ActorBank, n_agents: int, action_dim: int, exploration_noise: float) -> None:
        super().__init__()
        self.actors = actors
        self.n_agents = n_agents
        self.action_dim = action_dim
        self.exploration_noise = exploration_noise

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
        """The noise is the action, or the largest among the legal choices' is the choice."""
        if not self.discrete:
            return noise * self.action_mask, carry
        allowed = self.action_mask if legal is None else self.action_mask & legal
        return noise.masked_fill(~allowed, -torch.inf).argmax(-1), carry
