"""Actors that choose among discrete actions, and the behaviour policy made of them."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from dof_lightning.networks.agentwise import Agentwise, AgentwiseMLP, agent_identities
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec

_HIDDEN = (128, 128)


class ChoosingActors(Agentwise):
    """One network that N agents share and that also reads the agent's id: 128-128 ReLU, logits.

    Args:
        n_agents: N.
        observation_dim: O.
        n_choices: A.
    """

    agent_buffers: ClassVar[tuple[str, ...]] = ("agent_id",)
    agent_id: Tensor

    def __init__(self, n_agents: int, observation_dim: int, n_choices: int) -> None:
        super().__init__(n_agents, "shared")
        self.register_buffer("agent_id", agent_identities(n_agents, "shared"), persistent=False)
        sizes = (observation_dim + n_agents, *_HIDDEN, n_choices)
        self.network = AgentwiseMLP(n_agents, sizes, activation="relu", sharing="shared")

    def forward(self, observations: Tensor, legal: Tensor) -> Tensor:
        """`[B, N, O]` and legal choices `[B, N, A]` to log-probabilities `[B, N, A]`, -inf where illegal."""
        known = torch.cat([observations, self.agent_id.expand(len(observations), -1, -1)], dim=-1)
        logits: Tensor = self.network(known)
        return logits.masked_fill(~legal, -torch.inf).log_softmax(-1)


class ChoosingBehavior(DecentralizedPolicy):
    """N agents that draw from their actors' distributions, in an environment with discrete actions."""

    action_mask: Tensor

    def __init__(self, actors: ChoosingActors, spec: EnvSpec) -> None:
        super().__init__()
        self.actors = actors
        self.n_agents = spec.n_agents
        self.register_buffer("action_mask", spec.action_mask(), persistent=False)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard Gumbel `[E, N, A]`."""
        shape = (n_episodes, self.n_agents, self.action_mask.shape[1])
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        return -(-uniform.clamp(min=1e-20).log()).log()

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The largest sum of log-probability and Gumbel noise: a draw from the actors' distribution."""
        allowed = self.action_mask.expand(len(observations), -1, -1) if legal is None else self.action_mask & legal
        return (self.actors(observations, allowed) + noise).argmax(-1), carry
