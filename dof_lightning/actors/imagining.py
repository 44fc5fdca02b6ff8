"""Actors of MADIFF-D: agent i imagines the whole team from its own observations and keeps its own plan."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.actors.diffusion import ActingModel
from dof_lightning.actors.planning import PlanningActor
from dof_lightning.factorization.concat import Concat


class ImaginingActor(PlanningActor):
    """Agents that each denoise a whole team of windows, of which they know their own history and current row only.

    N egos imagine N agents each: a decision runs N^2 windows through the denoiser, all in one batch. It contains none
    of the teammates' observations; their rows start as the ego's own noise. All rows of ego i's team request ego i's
    return, the only one that it knows. (MADIFF-D: Zhu et al., 2024.)

    Args:
        model: see `PlanningActor`; the denoiser is one network that all agents share.
        keywords: see `PlanningActor`.
    """

    has_joint_chain = False  # each ego runs a chain of its own imagination
    whole_parts: ClassVar[tuple[str, ...]] = ("denoiser", "noise_factorization")  # these imagine the teammates
    ego: Tensor
    view_mask: Tensor

    def __init__(self, model: ActingModel, **keywords: Any) -> None:
        super().__init__(model, **keywords)
        self.register_buffer("ego", torch.arange(self.n_agents, device=self.data_mask.device), persistent=False)
        self.register_buffer("view_mask", imagined_entries(self.data_mask), persistent=False)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, egos, (M,) S, N, T, O]`: each ego draws the noise of its whole imagined team."""
        return self._drawn(n_episodes, self.view_mask, generator)

    def _sample(self, known: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """Samples the egos' own windows `[E, egos, T, O]` from noise `[S, E, egos, N, T, O]`."""
        team = self.view_mask.shape[1]
        is_own = functional.one_hot(self.ego, team).bool()[:, :, None, None]
        seen = torch.where(is_own, known[:, :, None], torch.zeros_like(known[:, :, None])).flatten(0, 1)
        mask = self.view_mask.expand(known.shape[0], -1, -1, -1, -1).flatten(0, 1)
        chain = replace(
            self._chain(pin=lambda x: torch.where(mask, x, seen)),
            data_factorization=Concat(),  # h is applied below, to the windows that are kept
            kept=1 + self._seeds.width,
        )
        conditions = with_role(condition[:, :, None].expand(-1, -1, team, -1), self.ego).flatten(0, 1)
        views = chain.locally(conditions, noise.flatten(1, 2))
        kept = views.reshape(*known.shape[:2], *views.shape[1:])[:, torch.arange(self.n_agents), self.ego]
        return torch.where(self.data_mask, self.data_factorization.local(kept), known)


def with_role(condition: Tensor, ego: Tensor) -> Tensor:
    """Adds to the condition `[..., N, C]` of an imagined team a mark of whether each row is the ego's.

    Args:
        condition: the return, whether it is given, and further entries.
        ego: int64, one index per team; broadcasts against the leading dimensions of `condition`.

    Returns:
        `[..., N, C + 1]`, with the mark after the return.
    """
    mark = functional.one_hot(ego, condition.shape[-2]).to(condition.dtype)[..., None]
    mark = mark.expand(*condition.shape[:-1], 1)
    return torch.cat([condition[..., :2], mark, condition[..., 2:]], dim=-1)


def imagined_entries(data_mask: Tensor) -> Tensor:
    """`[egos, N, T, O]` bool, entries that an ego does not know: its own future rows and all rows of its teammates.

    Args:
        data_mask: `[N, T, O]` bool, False for entries that an agent knows or that are padding.
    """
    teammates = data_mask.any(1, keepdim=True).expand_as(data_mask)
    is_own = torch.eye(len(data_mask), dtype=torch.bool, device=data_mask.device)[:, :, None, None]
    return torch.where(is_own, data_mask, teammates)
