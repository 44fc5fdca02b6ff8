"""DoF-Trajectory: diffuse each agent's window of observations, act by inverse dynamics."""

import math
from collections.abc import Callable
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from dof_lightning.actors.diffusion import Execution
from dof_lightning.actors.planning import PlanningActor, ReturnUpdate
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.parts.diffused import Diffused
from dof_lightning.algorithms.parts.execution import check_execution
from dof_lightning.algorithms.parts.losses import inverse_loss
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.algorithms.parts.trajectory_settings import check_settings
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec

CONDITION_DIM = 2  # the return, and whether there is one


class DoFTrajectory(DoFLightningModule):
    """Loss: L = (L_diffusion + L_inverse) / 2 + lambda L_h (reference/method.md section 2).

    Agent i's data x_i are its own window of T = Hh + H normalised observations. The history and the current row are
    known: they are written into x_i^k at every step, while training as at execution, and enter no loss. L_diffusion is
    the f-joined noise error of the H - 1 rows after them (seed, eqs. 8-11, B.28), conditioned on the return from the
    current row on, which is left out now and then so that one network serves both parts of classifier-free guidance.
    L_inverse teaches I_i(o_t, o_{t+1}) = a_t on all real transitions of the window, history included.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        denoiser: called with the spec and `condition_dim`.
        noise_factorization, data_factorization, schedule, sampler: see `DoFLightningModule`.
        inverse: inverse dynamics, called with the spec.
        history: Hh, rows before the current one.
        horizon: H, rows from the current one on, at least 2.
        return_dropout: probability that a sample's return is left out.
        guidance_weight: w at execution.
        returns_scale: returns are divided by it; None means the largest |R_0| of the dataset.
        target_return: asked for at execution, in units of `returns_scale`; None means `target_quantile`'s.
        target_quantile: of the dataset's R_0.
        return_update: how the target goes on while an episode runs, see `PlanningActor`.
        next_row_weight: of the row after the current one in L_diffusion; the others weigh 1 (ours: it is acted upon).
        reconstruction_weight: lambda.
        observation_normalizer: of what diffuses: `identity`, `limits`, `gaussian` or `cdf`.
        inverse_normalizer: of what inverse dynamics sees.
        inverse_noise: added to the next observations that inverse dynamics learns from, so that it does not trust a
            plan more than plans deserve (ours); its standard deviation in normalised units.
        learning_rate: of all networks.
        gradient_clip: largest norm per agent of the denoisers' gradient, None for no clipping.
        ema_decay: of the denoisers, f, h and inverse dynamics that act.
        execution: `decentralized` or `centralized`, see `DoFLightningModule`.
        shared_seeds: M, how many values the agents' common seed has, None for none (docs/shared_seed.md).

    Raises:
        UserError: the settings contradict each other.
    """

    diffuses: ClassVar[Diffuses] = "trajectories"
    actor: ClassVar[type[PlanningActor]] = PlanningActor
    roles: ClassVar[int] = 0  # entries of the condition behind the return, which are never left out
    average_denoiser: Agentwise

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        denoiser: Callable[..., Agentwise],
        noise_factorization: Callable[[DatasetSpec], Factorization],
        data_factorization: Callable[[DatasetSpec], Factorization],
        schedule: Callable[[], Schedule],
        sampler: Callable[[Schedule], Sampler],
        inverse: Callable[[DatasetSpec], InverseDynamics],
        history: int,
        horizon: int,
        return_dropout: float,
        guidance_weight: float,
        returns_scale: float | None,
        target_return: float | None,
        target_quantile: float,
        return_update: ReturnUpdate,
        next_row_weight: float,
        reconstruction_weight: float,
        observation_normalizer: str,
        inverse_normalizer: str,
        learning_rate: float,
        gradient_clip: float | None,
        ema_decay: float,
        execution: Execution = "decentralized",
        shared_seeds: int | None = None,
        inverse_noise: float = 0.0,
    ) -> None:
        settings = {
            "history": history,
            "horizon": horizon,
            "return_dropout": return_dropout,
            "guidance_weight": guidance_weight,
            "returns_scale": returns_scale,
            "target_quantile": target_quantile,
            "return_update": return_update,
            "next_row_weight": next_row_weight,
            "reconstruction_weight": reconstruction_weight,
            "inverse_noise": inverse_noise,
            "learning_rate": learning_rate,
            "gradient_clip": gradient_clip,
            "ema_decay": ema_decay,
        }
        check_settings(settings, learns_h=any(True for _ in data_factorization(spec).parameters()))
        bank = denoiser(spec, condition_dim=CONDITION_DIM + self.roles + (shared_seeds or 0))
        normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        window = Window(history, horizon)
        ahead = torch.arange(window.length) > history
        parts = (noise_factorization, data_factorization, schedule, sampler, ema_decay)
        data_mask = spec.environment.observation_mask()[:, None] & ahead[:, None]
        clip_range = math.inf if normalizer.clip_range is None else normalizer.clip_range
        known_dim = (history + 1) * spec.observation_dim + 1
        super().__init__(spec, seed, bank, *parts, data_mask, clip_range, execution, shared_seeds, known_dim)
        self.window = window
        self.inverse = inverse(spec)
        check_execution(execution, {"algorithm.inverse.sharing": self.inverse})
        self.average_inverse = ema_copy(self.inverse)
        self.normalizer = normalizer
        self.inverse_noise = inverse_noise
        self.inverse_normalizer = build_normalizer(inverse_normalizer, spec.statistics.observations)
        knots = spec.statistics.discounted_return_knots
        self.returns_scale = float(max(np.abs(knots).max(), 1e-6)) if returns_scale is None else returns_scale
        asked = float(np.quantile(knots, target_quantile)) / self.returns_scale
        self.target_return = asked if target_return is None else target_return
        self.return_dropout = return_dropout
        self.guidance_weight = guidance_weight
        self.return_update: ReturnUpdate = return_update
        self.next_row_weight = next_row_weight
        self.reconstruction_weight = reconstruction_weight
        self.learning_rate = learning_rate
        self.gradient_clip = gradient_clip
        self._check_parts()

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        windows = self.diffused(batch, generator)
        condition = self._without_some_returns(windows.condition, generator)
        told = self._assign(windows, generator, average=False)
        denoised = self.denoise(windows.x0, told.tell(condition), generator, mask=windows.mask)
        diffusion = self.diffusion_loss(denoised, windows.weight)
        reconstruction = self.reconstruction_loss(denoised, windows.x0, windows.weight)
        inverse = inverse_loss(self.spec, batch, self.inverse, self.inverse_normalizer, self.inverse_noise, generator)
        return {
            "loss": told.add_loss((diffusion + inverse) / 2 + self.reconstruction_weight * reconstruction),
            "loss/diffusion": diffusion,
            "loss/inverse": inverse,
            "loss/reconstruction": reconstruction,
            "diffusion/clipped_share": denoised.clipped_share,
            **told.losses,
        }

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Denoising loss, unweighted by f, all agents' and each agent's, and inverse dynamics', by what acts."""
        windows = self.diffused(batch, generator)
        condition = self._assign(windows, generator, average=True).tell(windows.condition)
        denoised = self.denoise(windows.x0, condition, generator, average=True, mask=windows.mask)
        error = windows.weight * (denoised.prediction - denoised.noise).square()
        agents = error.sum((0, 2, 3)) / windows.weight.sum((0, 2, 3)).clamp_min(1e-12)
        inverse = inverse_loss(self.spec, batch, self.average_inverse, self.inverse_normalizer)
        losses = {"heldout/diffusion": error.sum(), "heldout/inverse": inverse}
        return losses | {
            f"heldout/diffusion_{agent.name}": agents[i] for i, agent in enumerate(self.spec.environment.agents)
        }

    def policy(self) -> PlanningActor:
        """Agents with the averaged denoisers, f, h and inverse dynamics."""
        actor = self.actor(
            cast(Agentwise, whole(self.average_denoiser)),
            self.average_noise_factorization,
            self.average_data_factorization,
            cast(InverseDynamics, whole(self.average_inverse)),
            self.normalizer,
            self.inverse_normalizer,
            self.sampler,
            self.window,
            self.guidance_weight,
            self.target_return,
            self.return_update,
            self.returns_scale,
            self.spec.discount,
            self.spec.horizon,
            self.clip_range,
            self.data_mask,
            self.spec.environment.action_mask().to(self.data_mask.device),
            self.spec.action_kind,
            self.execution,
            self.shared_seeds,
        )
        return actor.eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Denoisers, factorisation (f and h), inverse dynamics."""
        factorization = (self.noise_factorization, self.data_factorization)
        groups = [
            ParameterGroup("denoiser", (self.denoiser,), self.learning_rate, self.gradient_clip),
            ParameterGroup("factorization", factorization, self.learning_rate, None),
            ParameterGroup("inverse", (self.inverse,), self.learning_rate, self.gradient_clip),
        ]
        if self.seed_assignment is not None:
            groups += self.seed_assignment.parameter_groups()
        return [group for group in groups if group.parameters()]

    def after_step(self) -> None:
        """Moves the averages of what acts."""
        super().after_step()
        ema_update(self.average_inverse, self.inverse, self.ema_decay)

    def _check_parts(self) -> None:
        windows = torch.zeros(1, *self.data_mask.shape)
        with torch.no_grad():  # an f that reads another conditioning than returns says so here, not in training
            self.noise_factorization.join(windows, torch.zeros(1, self.spec.n_agents, CONDITION_DIM + self.roles))

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The batch as it is diffused; agents know their own histories and current rows."""
        x0 = self.normalizer.normalize(batch.observations[:, :, :-1])
        weight = torch.ones_like(x0) * self.data_mask
        weight[:, :, batch.history + 1] *= self.next_row_weight
        weight = weight / (len(x0) * weight[0].sum())
        weight = weight * batch.diffusion_mask[:, None, :, None]
        weight = weight if batch.alive is None else weight * batch.alive[:, :, :-1, None]
        return Diffused(x0, self._condition(batch), self.data_mask, weight)

    def _without_some_returns(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Returns left out here and there; where agents meet in the denoiser, all agents' or nobody's."""
        rows = condition.shape[1] if self.denoiser.local_execution else 1
        kept = torch.rand(len(condition), rows, 1, generator=generator, device=condition.device) >= self.return_dropout
        return torch.cat([condition[..., :CONDITION_DIM] * kept, condition[..., CONDITION_DIM:]], dim=-1)

    def _assign(self, windows: Diffused, generator: torch.Generator, average: bool) -> Assignment:
        """The seeds of windows of which the agents know histories, current rows and returns before they act."""
        rows = windows.x0[:, :, : self.window.history + 1].flatten(2)
        known = torch.cat([rows, windows.condition[..., :1]], dim=-1)
        return self.assign_seed(known, windows.x0, windows.condition, windows.weight, generator, average)

    def _condition(self, batch: EpisodeBatch) -> Tensor:
        """`[B, N, 2]`: R_t / returns_scale of agent i from the current row on, and 1."""
        returns = batch.return_to_go[:, :, batch.history] / self.returns_scale
        return torch.stack([returns, torch.ones_like(returns)], dim=-1)
