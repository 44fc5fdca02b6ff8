"""DoF-Trajectory: diffuses each agent's window of observations and acts by inverse dynamics."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from dof_lightning.actors.planning import Asking, Beginning, PlanningActor, ReturnUpdate
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.parts.diffused import FIVE_STEPS, DataDiffusionSettings, Diffused, check_execution
from dof_lightning.algorithms.parts.losses import inverse_loss
from dof_lightning.algorithms.parts.plan_values import (
    PlanValues,
    PlanValueSettings,
    check_plan_values,
    idle_of_plan_values,
)
from dof_lightning.algorithms.parts.reward_units import remarks_on_returns, scale_of_returns
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.networks.temporal_unet import TemporalUNetSettings
from dof_lightning.normalization import NormalizerName, build_normalizer
from dof_lightning.settings import Fraction, FractionBelowOne, NonNegative, Positive, Range, WholeNumber
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec

UNET = TemporalUNetSettings()
CONDITION_DIM = 2  # the return, and whether it is given


@dataclass(frozen=True, kw_only=True)
class DoFTrajectorySettings(DataDiffusionSettings, PlanValueSettings):
    """Settings of `DoFTrajectory`; those of the values learned beside plans come from `PlanValueSettings`.

    Attributes:
        inverse: the inverse dynamics model, called with the spec.
        history: Hh, observations before the current one that an agent remembers and conditions on.
        horizon: H, rows of a window from the current one on; H - 1 are planned.
        return_dropout: probability that a sample's return is left out in training.
        guidance_weight: w of classifier-free guidance: 0 ignores the return, 1 follows it, more exaggerates it.
        returns_scale: returns are divided by it; None means the largest |R_0| of the dataset, 1 where that is 0.
        target_return: the return requested at execution, in units of `returns_scale`; None means `target_quantile`'s.
        target_quantile: quantile of the dataset's R_0 that is the target.
        return_update: how the target changes during an episode, see `Asking`.
        next_row_weight: weight in L_diffusion of the row after the current one; the others have weight 1 (ours: this
            row is acted upon).
        inverse_normalizer: normaliser of the inverse dynamics' observations; same options as `observation_normalizer`,
            which is that of the diffused observations.
        inverse_noise: standard deviation, in normalised units, of the noise on the next observations that inverse
            dynamics learns from, so that it does not trust plans more than they deserve (ours).
    """

    denoiser: Callable[..., Agentwise] = UNET
    sampler: Callable[[Schedule], Sampler] = FIVE_STEPS
    inverse: Callable[[DatasetSpec], InverseDynamics] = InverseDynamics
    history: WholeNumber = 0
    horizon: Annotated[int, Range(2, because="the current row and one that is planned")] = 24
    return_dropout: FractionBelowOne = 0.25
    guidance_weight: NonNegative = 1.2
    returns_scale: Positive | None = None
    target_return: float | None = None
    target_quantile: Fraction = 0.95
    return_update: ReturnUpdate = "none"
    next_row_weight: Positive = 1.0
    observation_normalizer: NormalizerName = "cdf"
    inverse_normalizer: str = "gaussian"
    inverse_noise: NonNegative = 0.0
    learning_rate: Positive = 2e-4

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class."""
        given, found = self.target_return, super().idle(action_kind) | idle_of_plan_values(self)
        if given is not None:
            found.setdefault("target_quantile", f"algorithm.target_return={given}")
        if self.guidance_weight == 0:  # then nothing reads the requested return
            asked = ("target_return", "target_quantile", "return_update", "target_advantage")
            found |= dict.fromkeys(asked, "algorithm.guidance_weight=0")
        if self.horizon == 2:
            found["next_row_weight"] = "algorithm.horizon=2 plans no other row"
        return found

    def check(self) -> None:
        """Refuses guidance that nothing is trained for, and a ranking by values if no values are learned."""
        check_plan_values(self)
        if self.guidance_weight != 1 and self.return_dropout == 0:
            raise UserError(
                f"algorithm.guidance_weight={self.guidance_weight} needs predictions without a return, which "
                "algorithm.return_dropout=0 never trains; set return_dropout above 0, or guidance_weight=1"
            )


class DoFTrajectory(DoFLightningModule, made_by=DoFTrajectorySettings):
    """Loss: L = (L_diffusion + L_inverse) / 2 + lambda L_h (Li et al., 2025: DoF-Trajectory).

    Agent i's data x_i are its own window of T = Hh + H normalised observations. The history and the current row are
    known: they are written into x_i^k at every step, both in training and at execution, and enter no loss. L_diffusion
    is the f-joined noise error of the H - 1 rows after them (Li et al., 2025, eqs. 8-11, B.28), conditioned on the
    return from the current row on, which is sometimes left out so that one network serves both parts of classifier-free
    guidance. L_inverse teaches I_i(o_t, o_{t+1}) = a_t on all real transitions of the window, history included.

    Attributes:
        returns_scale: returns are divided by it.
        target_return: the return requested at execution, in units of `returns_scale`.

    Raises:
        UserError: the settings contradict each other.
    """

    diffuses: ClassVar[Diffuses] = "trajectories"
    actor: ClassVar[type[PlanningActor]] = PlanningActor
    roles: ClassVar[int] = 0  # entries of the condition after the return, which are never left out
    settings: DoFTrajectorySettings

    def __init__(self, spec: DatasetSpec, settings: DoFTrajectorySettings) -> None:
        # One h more than is used: drawing its random numbers keeps the results of every seed unchanged.
        settings.check_h(settings.data_factorization(spec))
        parts = settings.build_parts(spec, condition_dim=CONDITION_DIM + self.roles)
        normalizer = build_normalizer(settings.observation_normalizer, spec.statistics.observations)
        window = Window(settings.history, settings.horizon)
        ahead = torch.arange(window.length) > settings.history
        super().__init__(
            spec,
            settings,
            parts,
            data_mask=spec.environment.observation_mask()[:, None] & ahead[:, None],
            clip_range=math.inf if normalizer.clip_range is None else normalizer.clip_range,
            known_dim=(settings.history + 1) * spec.observation_dim + 1,
        )
        self.window = window
        self.inverse = settings.inverse(spec)
        check_execution(settings.execution, {"algorithm.inverse.sharing": self.inverse})
        self.average_inverse = ema_copy(self.inverse)
        self.normalizer = normalizer
        self.inverse_normalizer = build_normalizer(settings.inverse_normalizer, spec.statistics.observations)
        self.returns_scale = scale_of_returns(settings.returns_scale, spec)
        self.target_return = self._target()
        self.guidance_weight = settings.guidance_weight
        self.gradient_clip = settings.gradient_clip
        # Built after everything that all runs have, so that the random numbers of those parts stay the same.
        self.values = PlanValues(spec, settings, self.returns_scale)
        self._check_parts()

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        of_values = self.values.losses(batch, self.inverse_normalizer, generator)
        windows = self.diffused(batch, generator)
        condition = self._without_some_returns(windows.condition, generator)
        assigned = self._assign(windows, generator, average=False)
        denoised = self.denoise(windows.x0, assigned.tell(condition), generator, mask=windows.mask)
        diffusion = self.diffusion_loss(denoised, windows.weight)
        reconstruction = self.reconstruction_loss(denoised, windows.x0, windows.weight)
        noise = self.settings.inverse_noise
        inverse = inverse_loss(self.spec, batch, self.inverse, self.inverse_normalizer, noise, generator)
        loss = assigned.add_loss((diffusion + inverse) / 2 + self.settings.reconstruction_weight * reconstruction)
        return {
            "loss": sum((value for tag, value in of_values.items() if tag.startswith("loss/")), loss),
            "loss/diffusion": diffusion,
            "loss/inverse": inverse,
            "loss/reconstruction": reconstruction,
            "diffusion/clipped_share": denoised.clipped_share,
            **assigned.losses,
            **of_values,
        }

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of the averages: denoising, unweighted by f, for all agents and per agent, and inverse dynamics."""
        windows = self.diffused(batch, generator)
        condition = self._assign(windows, generator, average=True).tell(windows.condition)
        denoised = self.denoise(windows.x0, condition, generator, average=True, mask=windows.mask)
        inverse = inverse_loss(self.spec, batch, self.average_inverse, self.inverse_normalizer)
        return denoised.heldout_errors(windows.weight, self.spec) | {"heldout/inverse": inverse}

    def policy(self) -> PlanningActor:
        """Agents with the averaged denoisers, f, h and inverse dynamics."""
        asking = Asking(
            window=self.window,
            target_return=self.target_return,
            return_update="none" if self.settings.returns == "advantage" else self.settings.return_update,
            returns_scale=self.returns_scale,
            discount=self.spec.discount,
            episode_length=self.spec.horizon,
        )
        actor = self.actor(
            self.acting_model(),
            beginning=Beginning(
                inverse=cast(InverseDynamics, whole(self.average_inverse)),
                normalizer=self.inverse_normalizer,
                candidates=self.settings.candidates,
                critic=self.values.ranking if self.settings.candidates > 1 else None,
            ),
            normalizer=self.normalizer,
            data_mask=self.data_mask,
            action_mask=self.spec.environment.action_mask().to(self.data_mask.device),
            action_kind=self.spec.action_kind,
            asking=asking,
        )
        return actor.eval()

    def further_groups(self) -> list[ParameterGroup]:
        """Groups of inverse dynamics, of the values that advantages are measured by, and of the critics."""
        inverse = ParameterGroup("inverse", (self.inverse,), self.settings.learning_rate, self.gradient_clip)
        return [inverse, *self.values.groups(self.settings.learning_rate)]

    def remarks(self) -> list[str]:
        """A note if the unit of the returns cannot be determined."""
        return remarks_on_returns(self.settings.returns_scale, self.spec)

    def after_step(self) -> None:
        """Updates the moving averages of the modules that act."""
        super().after_step()
        ema_update(self.average_inverse, self.inverse, self.settings.ema_decay)
        self.values.after_step(self.settings.ema_decay)

    def _check_parts(self) -> None:
        windows = torch.zeros(1, *self.data_mask.shape)
        with torch.no_grad():  # an f that reads a conditioning other than returns fails here, not in training
            self.noise_factorization.join(windows, torch.zeros(1, self.spec.n_agents, CONDITION_DIM + self.roles))

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The batch in the form that diffuses; agents know their own histories and current rows."""
        x0 = self.normalizer.normalize(batch.observations[:, :, :-1])
        weight = torch.ones_like(x0) * self.data_mask
        weight[:, :, batch.history + 1] *= self.settings.next_row_weight
        weight = weight / (len(x0) * weight[0].sum())
        weight = weight * batch.diffusion_mask[:, None, :, None]
        weight = weight if batch.alive is None else weight * batch.alive[:, :, :-1, None]
        return Diffused(x0, self._condition(batch), self.data_mask, weight)

    def _without_some_returns(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Leaves out the returns of some samples; if agents meet in the denoiser, those of all agents or of none."""
        rows = condition.shape[1] if self.denoiser.local_execution else 1
        drawn = torch.rand(len(condition), rows, 1, generator=generator, device=condition.device)
        kept = drawn >= self.settings.return_dropout
        return torch.cat([condition[..., :CONDITION_DIM] * kept, condition[..., CONDITION_DIM:]], dim=-1)

    def _assign(self, windows: Diffused, generator: torch.Generator, average: bool) -> Assignment:
        """The shared seeds of windows; agents know histories, current rows and returns before they act."""
        rows = windows.x0[:, :, : self.window.history + 1].flatten(2)
        known = torch.cat([rows, windows.condition[..., :1]], dim=-1)
        return self.assign_seed(known, windows, generator, average)

    def _target(self) -> float:
        """The return requested at an episode's start, in the unit of the condition."""
        settings = self.settings
        if settings.returns == "advantage":
            return settings.target_advantage
        if settings.target_return is not None:
            return settings.target_return
        knots = self.spec.statistics.discounted_return_knots
        return float(np.quantile(knots, settings.target_quantile)) / self.returns_scale

    def _condition(self, batch: EpisodeBatch) -> Tensor:
        """`[B, N, 2]`: the return from the current row on that agent i is conditioned on (`returns`), and 1."""
        if self.values.advantage is None:
            returns = batch.return_to_go[:, :, batch.history] / self.returns_scale
        else:
            returns = self.values.advantage(batch, self.inverse_normalizer)
        return torch.stack([returns, torch.ones_like(returns)], dim=-1)
