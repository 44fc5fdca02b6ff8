"""Actors of MADT: agent i continues the sequence of its requested returns, observations and actions."""

from typing import Any, Literal

import torch
from torch import Tensor

from dof_lightning.actors.actions import best_legal
from dof_lightning.actors.direct import NoiselessActor
from dof_lightning.networks.causal_transformer import CausalTransformer
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import AskingPolicy

SequenceReturnUpdate = Literal["none", "reward"]


class SequenceActor(NoiselessActor, AskingPolicy):
    """Agents that take the likeliest legal choice of a causal transformer, given their own last T rows.

    Args:
        network: the transformer over T rows.
        normalizer: the normaliser of observations.
        action_mask: `[N, A]` bool, False for padding.
        target_return: the return requested at an episode's start, return / returns_scale.
        return_update: how the request changes during an episode: `none` keeps it; `reward` subtracts the agent's
            rewards, which it then receives (`observes_rewards`).
        returns_scale: the unit of returns.
        discount: gamma of the returns.
    """

    def __init__(
        self,
        network: CausalTransformer,
        normalizer: Normalizer,
        action_mask: Tensor,
        target_return: float,
        return_update: SequenceReturnUpdate,
        returns_scale: float,
        discount: float,
    ) -> None:
        super().__init__(network.n_agents, normalizer, action_mask)
        self.network = network
        self.target_return = target_return
        self.return_update: SequenceReturnUpdate = return_update
        self.observes_rewards = return_update == "reward"
        self.returns_scale = returns_scale
        self.discount = discount

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """`rows` `[E, N]`, their number; `target` `[E, N]`; `returns`, `seen` and `actions` of the last T rows."""
        shape, kept = (n_episodes, self.n_agents), self.network.rows
        seen_dim = self.network.of_observation.in_features - self.network.agent_id.shape[1]
        return {
            "rows": torch.zeros(shape, dtype=torch.int64, device=device),
            "target": torch.full(shape, self.target_return, device=device),
            "returns": torch.zeros(*shape, kept, device=device),
            "seen": torch.zeros(*shape, kept, seen_dim, device=device),
            "actions": torch.zeros(*shape, kept, dtype=torch.int64, device=device),
        }

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Adds a row and predicts its action; see the base class."""
        full = carry["rows"] >= self.network.rows
        here = carry["rows"].clamp(max=self.network.rows - 1)
        returns = _put(_shift(carry["returns"], full), here, carry["target"])
        seen = _put(_shift(carry["seen"], full), here, self.normalizer.normalize(observations))
        actions = _shift(carry["actions"], full)
        # The rows after the present one do not matter: the network looks back only.
        said = self.network(returns, seen, actions)
        now = said.gather(2, here[..., None, None].expand(-1, -1, 1, said.shape[-1])).squeeze(2)
        choice = best_legal(now, self.action_mask, legal)
        memory = {"returns": returns, "seen": seen, "actions": _put(actions, here, choice)}
        return choice, {**carry, **memory, "rows": carry["rows"] + 1}


def _shift(memory: Tensor, full: Tensor) -> Tensor:
    """Drops the oldest of rows `[E, N, T, ...]` if there are T of them already."""
    return torch.where(full.view(*full.shape, *[1] * (memory.dim() - 2)), memory.roll(-1, dims=2), memory)


def _put(memory: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """Writes the value `[E, N, ...]` into one of the rows `[E, N, T, ...]`."""
    is_there = torch.arange(memory.shape[2], device=row.device) == row[..., None]
    is_there = is_there.view(*is_there.shape, *[1] * (memory.dim() - 3))
    return torch.where(is_there, value[:, :, None].to(memory.dtype), memory)
