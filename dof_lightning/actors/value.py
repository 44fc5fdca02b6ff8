"""Actors by own values x_i: agent i rates its own choices and takes the best one."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS, best_legal
from dof_lightning.actors.diffusion import ActingModel
from dof_lightning.diffusion.chain import Chain
from dof_lightning.networks.value import AgentwiseValue
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import ActionKind


class ValueActor(DecentralizedPolicy):
    """Agents that take argmax_u x_i(o_i, u): over all legal choices, or over M uniform draws of a continuous action.

    Args:
        n_agents: N.
        normalizer: the normaliser of observations.
        action_mask: `[N, A]` bool, False for padding.
        action_kind: `continuous` or `discrete`.
        candidates: M, number of continuous actions that are rated at each decision.
        n_noises: S, number of standard normal numbers per value.
    """

    action_mask: Tensor

    def __init__(
        self,
        n_agents: int,
        normalizer: Normalizer,
        action_mask: Tensor,
        action_kind: ActionKind,
        candidates: int,
        n_noises: int,
    ) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.normalizer = normalizer
        self.register_buffer("action_mask", action_mask, persistent=False)
        self.action_kind: ActionKind = action_kind
        self.candidates = action_mask.shape[-1] if action_kind == "discrete" else candidates
        self.n_noises = n_noises

    @abstractmethod
    def values(self, condition: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """Computes x_i of the agents' own actions.

        Args:
            condition: `[B, N, C]`, normalised observations.
            actions: `[B, N, A]`, encoded by the codec of the action kind.
            noise: `[S, B, N, 1]` standard normal.

        Returns:
            `[B, N, 1]`.
        """

    def rate(self, observations: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """Computes x_i `[B, N, 1]` of actions `[B, N, A]` (`[B, N]` if discrete) at observations `[B, N, O]`."""
        condition = self.normalizer.normalize(observations)
        return self.values(condition, CODECS[self.action_kind].encode(actions, self.action_mask, like=condition), noise)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, M, S]`, with A more numbers per candidate if actions are continuous."""
        extra = self.action_mask.shape[-1] if self.action_kind == "continuous" else 0
        shape = (n_episodes, self.n_agents, self.candidates, self.n_noises + extra)
        return torch.randn(shape, generator=generator, device=generator.device)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Rates the candidates and takes the best legal one; see the base class."""
        candidates = self._candidates(noise)
        condition = self.normalizer.normalize(observations)[:, :, None].expand(-1, -1, self.candidates, -1)
        chains = noise[..., : self.n_noises].movedim(-1, 0)[..., None]
        condition, rows = (part.transpose(1, 2).flatten(0, 1) for part in (condition, candidates))
        values = self.values(condition, rows, chains.transpose(2, 3).flatten(1, 2))
        values = values.unflatten(0, (-1, self.candidates)).squeeze(-1).transpose(1, 2)  # type: ignore[no-untyped-call]
        if self.action_kind == "discrete":
            return best_legal(values, self.action_mask, legal), carry
        best = values.argmax(-1)[..., None, None].expand(-1, -1, 1, candidates.shape[-1])
        return candidates.gather(2, best).squeeze(2), carry

    def _candidates(self, noise: Tensor) -> Tensor:
        """`[E, N, M, A]`: every discrete choice, or uniform actions in [-1, 1] made from normal noise."""
        if self.action_kind == "continuous":
            return torch.erf(noise[..., self.n_noises :] / 2**0.5) * self.action_mask[:, None]
        choices = torch.arange(self.candidates, device=noise.device).expand(self.n_agents, -1).T
        encoded = CODECS["discrete"].encode(choices, self.action_mask, like=noise)
        return encoded.transpose(0, 1).expand(len(noise), -1, -1, -1)


class DiffusedValueActor(ValueActor):
    """Each value x_i is drawn by agent i's own reverse chain.

    Args:
        model: contains eps_i(x_i^k, k, [o_i | u_i]), and an h with nothing learned: the mixer is no part of execution.
        normalizer, action_mask, action_kind, candidates: see `ValueActor`.
    """

    def __init__(
        self,
        model: ActingModel,
        normalizer: Normalizer,
        action_mask: Tensor,
        action_kind: ActionKind,
        candidates: int,
    ) -> None:
        n_agents, n_noises = model.denoiser.n_agents, model.sampler.n_noises
        super().__init__(n_agents, normalizer, action_mask, action_kind, candidates, n_noises)
        self.denoiser = model.denoiser
        self.noise_factorization = model.noise_factorization
        self.data_factorization = model.data_factorization
        self.sampler = model.sampler

    def values(self, condition: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """See the base class."""
        parts = (self.denoiser, self.noise_factorization, self.data_factorization)
        chain = Chain(*parts, self.sampler, clip=lambda x: x.clamp(-1.0, 1.0))
        return chain.locally(torch.cat([condition, actions], dim=-1), noise)


class DirectValueActor(ValueActor):
    """Each value x_i is a network's output: no noise, no chain.

    Args:
        network: computes q_i(o_i, u_i).
        normalizer, action_mask, action_kind, candidates: see `ValueActor`.
    """

    def __init__(
        self,
        network: AgentwiseValue,
        normalizer: Normalizer,
        action_mask: Tensor,
        action_kind: ActionKind,
        candidates: int,
    ) -> None:
        super().__init__(network.n_agents, normalizer, action_mask, action_kind, candidates, n_noises=0)
        self.network = network

    def values(self, condition: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """See the base class."""
        return self.network(condition, actions)
