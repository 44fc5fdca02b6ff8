"""One agent's decision, and the noise of that decision, as pure functions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.seeding import make_generator


def own_noise(policy: DecentralizedPolicy, n_episodes: int, seed: int, agent: int, step: int) -> Tensor:
    """The noise that an agent draws by itself: a function of (seed, agent, step), independent of the other agents.

    Args:
        policy: the policy of that agent alone (N = 1).
        n_episodes: E; episodes of one batch share the stream, so the noise depends on E.
        seed: the episode's seed, the same for all agents.
        agent: its index in the team.
        step: number of decisions since the start.

    Returns:
        `[E, 1, ...]`, as from `policy.draw_noise`.
    """
    tensor = next(iter([*policy.parameters(), *policy.buffers()]), torch.empty(0))
    return policy.draw_noise(n_episodes, make_generator(seed, "agent", agent, step, device=tensor.device))


def told_seed(policy: DecentralizedPolicy, n_episodes: int, seed: int) -> Tensor | None:
    """The agents' common seed, a function of the episode's seed: each agent derives the same one by itself.

    Args:
        policy: the policy of one agent or of the team.
        n_episodes: E; episodes of one batch share the stream, so the seeds depend on E.
        seed: the episode's seed, the same for all agents.
    """
    # On the CPU, wherever the agent runs: the seed differs between kinds of devices.
    return policy.draw_shared_seed(n_episodes, make_generator(seed, "shared seed"))


class Decision(nn.Module):
    """The policy of one agent, without the agent axis and without padding.

    Args:
        policy: the policy of one agent (N = 1).
        padding: number of zeros appended to observations, because the widest agent has more.
        legal_padding: the same for discrete choices.
        action_dim: A_i of continuous actions, None if they are discrete.

    Shapes:
        observation `[E, O_i]`, legal `[E, A_i]` bool or None, noise `[E, ...]`; action `[E, A_i]` in [-1, 1], or `[E]`
        int64 if discrete
    """

    def __init__(self, policy: DecentralizedPolicy, padding: int, legal_padding: int, action_dim: int | None) -> None:
        super().__init__()
        self.policy = policy
        self.padding = padding
        self.legal_padding = legal_padding
        self.action_dim = action_dim

    def forward(self, observation: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Decides; returns the action and the agent's new memory."""
        padded = pad(observation, (0, self.padding))
        if legal is not None:
            legal = pad(legal, (0, self.legal_padding))[:, None]
        actions, carry = self.policy.act_on_noise(padded[:, None], carry, legal, noise[:, None])
        action = actions[:, 0]
        return (action if self.action_dim is None else action[:, : self.action_dim]), carry
