"""DoF-Policy: diffuse each agent's action given its own observation, improve it by the gradient of Q."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.actors.diffusion import DiffusionActor, Ranking, Selection
from dof_lightning.algorithms.base import PADDED_TAILS, ParameterGroup
from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.parts.critics import (
    Critics,
    CriticSettings,
    Situation,
    TeamCritic,
    build_team_critic,
    check_ranking,
    idle_of_critics,
)
from dof_lightning.algorithms.parts.diffused import DataDiffusionSettings, Denoised, Diffused
from dof_lightning.algorithms.parts.losses import negative_value
from dof_lightning.algorithms.parts.reward_units import remarks_on_rewards
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.clip import clip_with_way_back
from dof_lightning.diffusion.sampler import DDIM, DDPM, Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.errors import UserError
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import build_normalizer
from dof_lightning.settings import Count, Fraction, NonNegative, Positive, Range
from dof_lightning.spec import ActionKind, DatasetSpec

QGradient = Literal["none", "one_step", "full"]
_OF_CRITICS = ("target_sampler", "critic_learning_rate", "critic_gradient_clip", "target_update_rate")
FEW_STEPS = partial(DDIM, steps=3)
Temperature = Annotated[float, Range(0, excludes="low", because="algorithm.selection=argmax takes the best candidate")]


@dataclass(frozen=True, kw_only=True)
class DoFPolicySettings(DataDiffusionSettings, CriticSettings):
    """Settings of `DoFPolicy`.

    Attributes:
        target_sampler: few-step sampler of the next actions in TD targets, called with the schedule; that chain is half
            the cost of an update.
        q_gradient: `none` (cloning), `one_step` (through the one-step estimate of x0) or `full` (through the sampler's
            chain).
        q_weight: eta, weight of L_q.
        candidates: M, actions that an agent draws at execution and ranks by its own Q_i.
        selection: among candidates, `argmax` takes the best, `softmax` draws one with probability ~ exp(Q_i / T).
        selection_temperature: T, in the rewards' own unit.
        critic_learning_rate: of Adam for critics and mixer.
        critic_gradient_clip: largest gradient norm of each agent's critics; None means no clipping.
        target_update_rate: tau of the target critics.
    """

    denoiser: Callable[..., MLPDenoiser] = MLPDenoiser
    sampler: Callable[[Schedule], Sampler] = DDPM
    target_sampler: Callable[[Schedule], Sampler] = FEW_STEPS
    q_gradient: QGradient = "one_step"
    q_weight: NonNegative = 0.5
    candidates: Count = 10
    selection: Selection = "argmax"
    selection_temperature: Temperature = 1.0
    critic_learning_rate: Positive = 3e-4
    critic_gradient_clip: Positive | None = 0.5
    target_update_rate: Fraction = 0.005

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class."""
        found = super().idle(action_kind) | idle_of_critics(self)
        found[PADDED_TAILS] = "no rows of a window diffuse, but actions"
        if self.critics == "none":
            found |= dict.fromkeys(_OF_CRITICS, "algorithm.critics=none")
        if self.q_gradient == "none":
            found["q_weight"] = "algorithm.q_gradient=none"
        elif self.q_weight == 0:
            found["q_gradient"] = "algorithm.q_weight=0"
        if self.discount == 0 and not (self.critics == "joint" and self.local_head):
            found["target_sampler"] = "algorithm.discount=0"
        if self.selection == "argmax":
            found["selection_temperature"] = "algorithm.selection=argmax"
        if self.candidates == 1:
            found |= dict.fromkeys(("selection", "selection_temperature"), "algorithm.candidates=1")
        return found

    def check(self) -> None:
        """Refuses a gradient and a ranking by values that nobody learns."""
        if self.q_gradient != "none" and self.critics == "none":
            raise UserError(f"algorithm.q_gradient={self.q_gradient} needs algorithm.critics=separate, mixed or joint")
        if self.candidates > 1 and self.critics == "none":
            raise UserError(
                "algorithm.candidates above 1 needs critics to rank them: set algorithm.critics or candidates=1"
            )
        if self.candidates > 1 and self.critics == "joint" and not self.local_head:
            raise UserError(
                f"algorithm.candidates={self.candidates} with algorithm.critics=joint: no agent can rank its own "
                "candidates by a joint Q; set algorithm.local_head=true or algorithm.candidates=1"
            )


@dataclass(frozen=True, kw_only=True)
class DoFCloningSettings(DoFPolicySettings):
    """Behaviour cloning: nothing is learned about values, and nothing ranks candidates."""

    critics: Critics = "none"
    q_gradient: QGradient = "none"
    q_weight: NonNegative = 0.0
    candidates: Count = 1


class DoFPolicy(DoFLightningModule, made_by=DoFPolicySettings):
    """Loss: L = L_bc + eta L_q + lambda L_h + L_critic (Li et al., 2025: DoF-Policy).

    L_bc is the f-joined noise error, L_h trains h to reconstruct the data, L_critic the twin critics' TD error, and
    L_q = -E[min(1, SNR_k) Q(o, h(x0))] / |Q| lets the critics' gradient reach the denoisers through the one-step
    estimate of x0 that L_bc's own forward pass gives (EDP, Kang et al. 2023), or, without the SNR, through the whole
    chain of the sampler (Diffusion-QL, Wang et al., 2023). Discrete actions diffuse as one-hot vectors.

    Raises:
        UserError: the settings contradict each other.
    """

    diffuses: ClassVar[Diffuses] = "actions"
    window = Window(history=0, horizon=1)
    settings: DoFPolicySettings
    average_denoiser: MLPDenoiser

    def __init__(self, spec: DatasetSpec, settings: DoFPolicySettings) -> None:
        known_dim = spec.observation_dim
        parts = settings.build_parts(spec, condition_dim=known_dim)
        super().__init__(spec, settings, parts, data_mask=spec.environment.action_mask(), known_dim=known_dim)
        if settings.q_gradient == "none":
            settings.check_h(self.data_factorization, otherwise="algorithm.q_gradient=one_step, ")
        self.gradient_clip = settings.gradient_clip
        self.codec = CODECS[spec.action_kind]
        self.target_sampler = settings.target_sampler(self.schedule)
        self.normalizer = build_normalizer(settings.observation_normalizer, spec.statistics.observations)
        self.critic = build_team_critic(spec, settings)
        check_ranking(self.critic, settings.candidates)
        self._check_parts()

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, x0 = self._current(batch)
        weight = self.entry_weight(x0, now.alive)
        windows = Diffused(x0, now.condition, self.data_mask, weight)
        told = self.assign_seed(now.condition, windows, generator, average=False)
        denoised = self.denoise(x0, told.tell(now.condition), generator)
        diffusion = self.diffusion_loss(denoised, weight)
        reconstruction = self.reconstruction_loss(denoised, x0, weight)
        losses = {
            "loss/diffusion": diffusion,
            "loss/reconstruction": reconstruction,
            "diffusion/clipped_share": denoised.clipped_share,
            **told.losses,
        }
        loss = diffusion + self.settings.reconstruction_weight * reconstruction
        loss = told.add_loss(loss)
        if self.critic is not None:
            following, next_actions = self._next_actions(batch, told, generator)
            losses |= self.critic.losses(batch, now, x0, following, next_actions)
            loss = loss + losses["loss/critic"] + losses.get("loss/local_head", 0.0)
            if self.settings.q_gradient == "one_step":
                losses["loss/q"] = self.q_loss(self.critic, denoised, now)
            elif self.settings.q_gradient == "full":
                losses["loss/q"] = self.full_q_loss(self.critic, now, generator, told)
            if "loss/q" in losses:
                loss = loss + self.settings.q_weight * losses["loss/q"]
        return {"loss": loss, **losses}

    def q_loss(self, critic: TeamCritic, denoised: Denoised, now: Situation) -> Tensor:
        """L_q through the one-step estimate of x0; its gradient reaches denoisers and h but not the critics.

        Samples weigh min(1, SNR_k), because the estimate of x0 says little where noise dominates.

        Args:
            critic: the team's.
            denoised: from `denoise`.
            now: the row it was made from.
        """
        values = self._values(critic, self.data_factorization.join(denoised.x0), now)
        return negative_value(values, self.schedule.snr(denoised.k, like=values).clamp(max=1.0))

    def full_q_loss(
        self, critic: TeamCritic, now: Situation, generator: torch.Generator, told: Assignment | None = None
    ) -> Tensor:
        """L_q through every step of the chain that acts: a shorter one would leave the steps it skips to cloning.

        Args:
            critic: the team's.
            now: the row to act in.
            generator: draws the chain's noise.
            told: the samples' shared seeds.
        """
        noise = self._chain_noise(self.sampler, now.condition, generator)
        actions = self.learning_sample(now.condition if told is None else told.tell(now.condition), noise, self.sampler)
        values = self._values(critic, actions, now)
        return negative_value(values, torch.ones_like(values))

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The denoising loss of the averaged denoisers, unweighted by f, all agents' and each agent's."""
        diffused = self.diffused(batch, generator)
        denoised = self.denoise(diffused.x0, diffused.condition, generator, average=True)
        return denoised.heldout_errors(diffused.weight, self.spec)

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The current actions `[B, N, A]`, given the observations."""
        now, x0 = self._current(batch)
        untold = Diffused(x0, now.condition, self.data_mask, self.entry_weight(x0, now.alive))
        told = self.assign_seed(now.condition, untold, generator, average=True)
        return replace(untold, condition=told.tell(now.condition))

    def policy(self) -> DiffusionActor:
        """Agents with the averaged denoisers, f and h, and the target critics to rank candidates."""
        settings = self.settings
        ranks = self.critic is not None and settings.candidates > 1
        scale = 1.0 if self.critic is None else self.critic.reward_scale
        actor = DiffusionActor(
            self.acting_model(),
            critic=self.critic.local if self.critic is not None and ranks else None,
            normalizer=self.normalizer,
            action_mask=self.data_mask,
            action_kind=self.spec.action_kind,
            ranking=Ranking(settings.candidates, settings.selection, settings.selection_temperature * scale),
        )
        return actor.eval()

    def further_groups(self) -> list[ParameterGroup]:
        """Critics, with the mixer."""
        if self.critic is None:
            return []
        rate, clip = self.settings.critic_learning_rate, self.settings.critic_gradient_clip
        return [ParameterGroup("critic", (self.critic.online,), rate, clip)]

    def remarks(self) -> list[str]:
        """Where rewards have no unit and critics learn from them."""
        return [] if self.critic is None else remarks_on_rewards(self.settings.reward_scale, self.spec)

    def after_step(self) -> None:
        """Moves the averages: what acts, and the target critics."""
        super().after_step()
        if self.critic is not None:
            self.critic.update_target(self.settings.target_update_rate)

    def _current(self, batch: EpisodeBatch) -> tuple[Situation, Tensor]:
        """The current row, and the data `[B, N, A]` there."""
        now = Situation.of(batch, batch.history, self.normalizer)
        return now, self.codec.encode(batch.actions[:, :, batch.history], self.data_mask, like=now.condition)

    @torch.no_grad()
    def _next_actions(
        self, batch: EpisodeBatch, told: Assignment, generator: torch.Generator
    ) -> tuple[Situation, Tensor]:
        """The row after the current one, and the averaged actors' actions `[B, N, A]` there given the same seed."""
        following = Situation.of(batch, batch.history + 1, self.normalizer)
        noise = self._chain_noise(self.target_sampler, following.condition, generator)
        actions = self.acting_sample(told.tell(following.condition), noise, self.target_sampler)
        actions = actions.clamp(-self.clip_range, self.clip_range)
        return following, self.codec.finish(actions, self.data_mask, following.legal)

    def _chain_noise(self, sampler: Sampler, condition: Tensor, generator: torch.Generator) -> Tensor:
        shape = (sampler.n_noises, *condition.shape[:2], self.spec.action_dim)
        return self.draw_noise(shape, generator, condition.dtype)

    def _values(self, critic: TeamCritic, actions: Tensor, now: Situation) -> Tensor:
        """The frozen critics' values of estimated actions, `[B, N]` or `[B, 1]`."""
        actions = clip_with_way_back(actions, self.clip_range)
        return critic.frozen_values(now, self.codec.relax(actions, self.data_mask, now.legal))
