"""Actors that take their action directly from a network's output."""

from typing import Any

import torch
from torch import Tensor

from dof_lightning.actors.actions import best_legal
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import DecentralizedPolicy


class NoiselessActor(DecentralizedPolicy):
    """Base of actors that draw no noise.

    Args:
        n_agents: N.
        normalizer: the normaliser of observations.
        action_mask: `[N, A]` bool, False for padding.
    """

    action_mask: Tensor

    def __init__(self, n_agents: int, normalizer: Normalizer, action_mask: Tensor) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.normalizer = normalizer
        self.register_buffer("action_mask", action_mask, persistent=False)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """`[E, N, 0]`: nothing is drawn."""
        return torch.empty(n_episodes, self.n_agents, 0, device=generator.device)


class DirectActor(NoiselessActor):
    """Continuous actions: a_i = tanh(mu_i(o_i)).

    Args:
        network: mu_i; the first A numbers of its output are read.
        normalizer, action_mask: see `NoiselessActor`.
    """

    def __init__(self, network: AgentwiseActor, normalizer: Normalizer, action_mask: Tensor) -> None:
        super().__init__(network.n_agents, normalizer, action_mask)
        self.network = network

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """See the base class."""
        said = self.network(self.normalizer.normalize(observations))
        return torch.tanh(said[..., : self.action_mask.shape[-1]]) * self.action_mask, carry


class ChoosingActor(NoiselessActor):
    """Discrete actions: the legal choice with the largest output of a network with a memory.

    Args:
        network: outputs logits or values of the choices.
        normalizer, action_mask: see `NoiselessActor`.
    """

    def __init__(self, network: RecurrentNetwork, normalizer: Normalizer, action_mask: Tensor) -> None:
        super().__init__(network.n_agents, normalizer, action_mask)
        self.network = network

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """An empty memory: `memory` `[E, N, hidden]` of zeros."""
        return {"memory": torch.zeros(n_episodes, self.n_agents, self.network.hidden, device=device)}

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """See the base class."""
        seen = self.normalizer.normalize(observations)[:, :, None]
        said, memory = self.network(seen, carry["memory"])
        return best_legal(said[:, :, 0], self.action_mask, legal), {**carry, "memory": memory}


class LikelyActor(ChoosingActor):
    """Discrete actions: the most valuable of the legal choices that are likely enough under a cloning network.

    Args:
        network: outputs values of the choices.
        cloning: outputs logits of the data's choices.
        threshold: see `likely`.
        normalizer, action_mask: see `NoiselessActor`.
    """

    def __init__(
        self,
        network: RecurrentNetwork,
        cloning: RecurrentNetwork,
        threshold: float,
        normalizer: Normalizer,
        action_mask: Tensor,
    ) -> None:
        super().__init__(network, normalizer, action_mask)
        self.cloning = cloning
        self.threshold = threshold

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """An empty memory: `memory` and `cloning_memory`, `[E, N, hidden]` of zeros."""
        memory = torch.zeros(n_episodes, self.n_agents, self.cloning.hidden, device=device)
        return {**super().initial_carry(n_episodes, device), "cloning_memory": memory}

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """See the base class."""
        seen = self.normalizer.normalize(observations)[:, :, None]
        said, memory = self.network(seen, carry["memory"])
        logits, cloning_memory = self.cloning(seen, carry["cloning_memory"])
        allowed = self.action_mask.expand(len(seen), -1, -1) if legal is None else self.action_mask & legal
        choice = best_legal(said[:, :, 0], self.action_mask, likely(logits[:, :, 0], allowed, self.threshold))
        return choice, {**carry, "memory": memory, "cloning_memory": cloning_memory}


def likely(logits: Tensor, allowed: Tensor, threshold: float) -> Tensor:
    """The allowed choices with pi(u) / max pi >= threshold (BCQ, Fujimoto et al., 2019a, eq. 11).

    Args:
        logits: `[..., A]`, pi's logits.
        allowed: `[..., A]` bool.
        threshold: in [0, 1]; 0 keeps all, 1 the likeliest only.
    """
    logits = logits.float().masked_fill(~allowed, -torch.inf)
    ratio = (logits - logits.amax(-1, keepdim=True)).exp()
    return allowed & (ratio >= threshold)
