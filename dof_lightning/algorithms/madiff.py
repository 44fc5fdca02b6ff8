"""MADIFF: one joint chain (C), or agents that imagine the whole team's windows and act on their own plans (D)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from dof_lightning.actors.imagining import ImaginingActor, imagined_entries, with_role
from dof_lightning.actors.planning import PlanningActor
from dof_lightning.algorithms.dof_trajectory import DoFTrajectory, DoFTrajectorySettings
from dof_lightning.algorithms.parts.diffused import Diffused
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.attention_unet import AttentionUNetSettings
from dof_lightning.policy import Execution
from dof_lightning.spec import ActionKind, DatasetSpec

ATTENTION_UNET = AttentionUNetSettings()


@dataclass(frozen=True, kw_only=True)
class _MADIFFSettings(DoFTrajectorySettings):
    """Settings with a denoiser in which the agents meet; the f and h of DoF are not part of MADIFF."""

    denoiser: Callable[..., Agentwise] = ATTENTION_UNET
    noise_factorization: Callable[[DatasetSpec], Factorization] = noise.Concat
    data_factorization: Callable[[DatasetSpec], Factorization] = data.Concat


@dataclass(frozen=True, kw_only=True)
class CentralizedMADIFFSettings(_MADIFFSettings):
    """Settings of MADIFF-C: `DoFTrajectory` with one joint chain, conditioned on all agents' histories."""

    execution: Execution = "centralized"


@dataclass(frozen=True, kw_only=True)
class DecentralizedMADIFFSettings(_MADIFFSettings):
    """Settings of `DecentralizedMADIFF`."""

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; teammates' current rows diffuse too, so the next row is never the only one that does."""
        found = super().idle(action_kind)
        found.pop("next_row_weight", None)
        return found


@dataclass(frozen=True, kw_only=True)
class DoFMADIFFSettings(DecentralizedMADIFFSettings):
    """Settings of DoF+MADIFF: f and h around MADIFF-D's denoiser."""

    noise_factorization: Callable[[DatasetSpec], Factorization] = noise.WConcat
    data_factorization: Callable[[DatasetSpec], Factorization] = data.WConcat


class DecentralizedMADIFF(DoFTrajectory, made_by=DecentralizedMADIFFSettings):
    """DoF-Trajectory through a denoiser in which the agents meet, trained on what one agent, the ego, knows.

    Each sample has an ego, drawn uniformly. Only the ego's history and current row are written into x^k; the teammates'
    are as unknown as the future, so they diffuse and enter L_diffusion, which is then a mean over more rows than that
    of MADIFF-C. All rows are conditioned on the ego's return, the only one that it knows when it acts, and each row on
    whether it is the ego's: if k is small, a first row that is exact and one that is noise look alike. The losses, f
    and h are `DoFTrajectory`'s; with concat for both this is MADIFF-D (Zhu et al., 2024) [the ego's draw and the
    conditioning are inferred, its mark is ours].

    Args:
        spec: the dataset's spec.
        settings: the denoiser must be shared by all agents, so that one agent can hold all of it.

    Raises:
        UserError: the settings contradict each other.
    """

    imagines_teammates = True
    roles = 1  # marks whether a row is the ego's
    actor: ClassVar[type[PlanningActor]] = ImaginingActor

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The batch in the form that diffuses, seen by one ego per sample."""
        x0 = self.normalizer.normalize(batch.observations[:, :, :-1])
        ego = torch.randint(self.spec.n_agents, (len(x0),), generator=generator, device=x0.device)
        views = imagined_entries(self.data_mask)
        rows = batch.diffusion_mask.clone()
        rows[:, : batch.history + 1] = True  # teammates' rows; before an episode's start the first is repeated
        share = views.to(x0.dtype)
        share[:, :, batch.history + 1] *= self.settings.next_row_weight
        share = share / (len(x0) * share.sum((1, 2, 3)).mean())
        weight = share[ego] * rows[:, None, :, None]
        weight = weight if batch.alive is None else weight * batch.alive[:, :, :-1, None]
        returns = self._condition(batch)[torch.arange(len(x0), device=x0.device), ego]
        condition = with_role(returns[:, None].expand(-1, self.spec.n_agents, -1), ego)
        return Diffused(x0, condition, views[ego], weight)

    def _check_parts(self) -> None:
        if self.settings.execution != "decentralized":
            raise UserError(
                "execution=centralized: these agents imagine their teammates and act alone; the joint chain of all "
                "agents' histories is algorithm=madiff_c"
            )
        if self.denoiser.local_execution or self.denoiser.sharing != "shared":
            raise UserError(
                "denoiser: agents that imagine their teammates need one shared network in which agents meet; choose "
                "denoiser=attention_unet with denoiser.sharing=shared"
            )
