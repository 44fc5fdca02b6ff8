"""DoF for values: each agent's diffusion generates its own value x_i given its own choice; h mixes the values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.actors.value import DiffusedValueActor
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.diffused import FIVE_STEPS, Diffused, DiffusionSettings, Parts, entry_weight
from dof_lightning.algorithms.parts.team_value import TeamValue, ValueSettings, current_row
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.errors import UserError
from dof_lightning.factorization import data
from dof_lightning.factorization.base import Factorization, ValueMixer
from dof_lightning.factorization.value import SelfAttention
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import build_normalizer
from dof_lightning.settings import Positive
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class DoFValueSettings(ValueSettings, DiffusionSettings):
    """Settings of `DoFValue`.

    Attributes:
        denoiser: called with a spec in which each agent's data are one number, and `condition_dim`.
        data_factorization: must have nothing to learn, because here h is the value mixer.
        sampler: sampler of the values; after the start noise nothing should be random, so that x_i has one value per
            choice.
    """

    denoiser: Callable[..., MLPDenoiser] = MLPDenoiser
    data_factorization: Callable[[DatasetSpec], Factorization] = data.Concat
    sampler: Callable[[Schedule], Sampler] = FIVE_STEPS
    value_mixer: Callable[..., ValueMixer] = SelfAttention
    learning_rate: Positive = 1e-3


class DoFValue(DoFLightningModule, made_by=DoFValueSettings):
    """Loss: L = L_value + L_diffusion [inferred: Li et al. (2025) show the game, not its loss].

    L_value = (y - h(q_1..q_N))^2 regresses the team's return through the mixer; it trains h and the targets
    q_i(o_i, u_i). L_diffusion = ||f(eps_1..eps_N) - f(eps_theta_1..eps_theta_N)||^2 (Li et al., 2025, eq. 11) with
    x_i^0 = stop_grad(q_i) trains the denoisers eps_theta_i(x_i^k, k, [o_i | u_i]).

    The other candidate was squared error to y through the whole chain. It fixes what h makes of the chains' ends and
    nothing else: x_i^k would have no law at any k, so that the networks would be generators, not denoisers, tied to
    the one sampler they were trained through. Here x_i^0 given (o_i, u_i) is q_i, x_i^k its Gaussian blur, f and any
    sampler mean what they mean elsewhere, and at the optimum the chains' ends are what h was fitted to. The price is
    that the mixer's regression finds the values, and diffusion generates them: it adds nothing to what h can represent.

    `heldout/value` is the squared error of h on the *generated* values.

    Raises:
        UserError: f or h does not fit.
    """

    diffuses: ClassVar[Diffuses] = "actions"  # one vector per agent, without a time axis
    window = Window(history=0, horizon=1)
    settings: DoFValueSettings
    action_mask: Tensor

    def __init__(self, spec: DatasetSpec, settings: DoFValueSettings) -> None:
        scalar = _with_one_number_an_agent(spec)
        f, h = settings.noise_factorization(scalar), settings.data_factorization(scalar)
        _check_factorizations(f, h)
        bank = settings.denoiser(scalar, condition_dim=spec.observation_dim + spec.action_dim)
        super().__init__(spec, settings, Parts(bank, f, h), data_mask=scalar.environment.action_mask())
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(settings.observation_normalizer, spec.statistics.observations)
        self.value = TeamValue(spec, settings.values, settings.value_mixer)
        self.average_value = ema_copy(self.value)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, actions = self._current(batch)
        x0 = self.value(now, actions)
        value = self.value.loss(self.value.mix(x0, now), batch)
        x0 = x0.detach()
        denoised = self.denoise(x0, torch.cat([now.condition, actions], dim=-1), generator)
        diffusion = self.diffusion_loss(denoised, entry_weight(self.data_mask, x0, now.alive))
        return {
            "loss": value + diffusion,
            "loss/value": value,
            "loss/diffusion": diffusion,
            "diffusion/clipped_share": denoised.clipped_share,
        }

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of the averages: denoising, unweighted by f, and the squared error of h on generated values."""
        diffused = self.diffused(batch, generator)
        denoised = self.denoise(diffused.x0, diffused.condition, generator, average=True)
        errors = denoised.heldout_errors(diffused.weight, self.spec)
        shape = (self.sampler.n_noises, *diffused.x0.shape)
        generated = self.local_sample(diffused.condition, self.draw_noise(shape, generator, diffused.x0.dtype))
        mixed = self.average_value.mix(generated, self._current(batch)[0])
        return {
            "heldout/diffusion": errors["heldout/diffusion"],
            "heldout/value": self.average_value.loss(mixed, batch),
        }

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The averaged values `[B, N, 1]` of the choices in the data, given observations and choices."""
        now, actions = self._current(batch)
        x0 = self.average_value(now, actions)
        condition = torch.cat([now.condition, actions], dim=-1)
        return Diffused(x0, condition, self.data_mask, entry_weight(self.data_mask, x0, now.alive))

    def policy(self) -> DiffusedValueActor:
        """Agents that take the choice whose generated x_i is largest."""
        actor = DiffusedValueActor(
            self.acting_model(),
            normalizer=self.normalizer,
            action_mask=self.action_mask,
            action_kind=self.spec.action_kind,
            candidates=self.settings.candidates,
        )
        return actor.eval()

    def mix(self, values: Tensor, observations: Tensor) -> Tensor:
        """The team's return `[B, 1]` that the averaged h makes of values `[B, N, 1]` at observations `[B, N, O]`."""
        return self.average_value.team_return(values, Situation(self.normalizer.normalize(observations)))

    def further_groups(self) -> list[ParameterGroup]:
        """The parameter group of the values and h."""
        return [ParameterGroup("value", (self.value,), self.settings.value_learning_rate, None)]

    def after_step(self) -> None:
        """Updates the moving averages."""
        super().after_step()
        ema_update(self.average_value, self.value, self.settings.ema_decay)

    def _current(self, batch: EpisodeBatch) -> tuple[Situation, Tensor]:
        return current_row(batch, self.normalizer, self.spec, self.action_mask)


def _with_one_number_an_agent(spec: DatasetSpec) -> DatasetSpec:
    """The spec from which parts that act on values instead of actions are built."""
    agents = tuple(replace(agent, action_dim=1) for agent in spec.environment.agents)
    return replace(spec, environment=replace(spec.environment, agents=agents))


def _check_factorizations(f: Factorization, h: Factorization) -> None:
    if not f.local_execution:
        raise UserError(
            f"noise_factorization: {type(f).__name__} cannot run locally (local_execution), but every agent generates "
            "its own values with algorithm=dof_value; choose noise_factorization=concat, wconcat or dec_attention"
        )
    if not h.local_execution or any(True for _ in h.parameters()):
        raise UserError(
            f"data_factorization: {type(h).__name__} is not used with algorithm=dof_value, where h is value_mixer; "
            "choose data_factorization=concat"
        )
