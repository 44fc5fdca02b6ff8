"""DoF-Policy: diffuses each agent's action given its own observation, and improves it by the gradient of Q."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.actors.diffusion import DiffusionActor, Ranking
from dof_lightning.algorithms.base import PADDED_TAILS, ParameterGroup
from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.parts.critic_settings import (
    Critics,
    CriticSettings,
    build_team_critic,
    build_value_learning,
    check_ranking,
    idle_of_critics,
    idle_of_target_sampler,
)
from dof_lightning.algorithms.parts.critics import Situation, TeamCritic
from dof_lightning.algorithms.parts.diffused import (
    DataDiffusionSettings,
    Denoised,
    Diffused,
    build_target_sampler,
    entry_weight,
)
from dof_lightning.algorithms.parts.episode_seed import EpisodeSeedAssignment, SeedOf, whole_episodes
from dof_lightning.algorithms.parts.extraction import (
    ADVANTAGE_SAMPLES,
    Cloning,
    Judge,
    Proposal,
    QGradient,
    WarmUp,
    Weighted,
    effective_share,
)
from dof_lightning.algorithms.parts.extraction_settings import (
    ExtractionSettings,
    QGradientRoute,
    check_extraction,
    idle_of_extraction,
)
from dof_lightning.algorithms.parts.reward_units import remarks_on_rewards
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.algorithms.parts.value_learning import Experience
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.clip import clip_with_way_back
from dof_lightning.diffusion.sampler import DDIM, DDPM, Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.diffusion.seed_conditioning import NO_SEEDS
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import build_normalizer
from dof_lightning.settings import Count, NonNegative
from dof_lightning.spec import ActionKind, DatasetSpec

FEW_STEPS = partial(DDIM, steps=3)


@dataclass(frozen=True, kw_only=True)
class DoFPolicySettings(DataDiffusionSettings, ExtractionSettings, CriticSettings):
    """Settings of `DoFPolicy`; the base classes specify how critics learn and how actors improve.

    Attributes:
        target_sampler: few-step sampler of the next actions in TD targets, called with the schedule; its chain is half
            the cost of an update.
        shared_seed_of: the unit that a shared seed is assigned to in training: each `window`, or each `episode`, so
            that all its windows have the same seed, and critics receive it.
    """

    denoiser: Callable[..., MLPDenoiser] = MLPDenoiser
    sampler: Callable[[Schedule], Sampler] = DDPM
    target_sampler: Callable[[Schedule], Sampler] = FEW_STEPS
    shared_seed_of: SeedOf = "window"

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class."""
        found = super().idle(action_kind) | idle_of_critics(self)
        if self.shared_seeds is None:
            found["shared_seed_of"] = "algorithm.shared_seeds=null"
        found[PADDED_TAILS] = "no rows of a window diffuse, but actions"
        found |= idle_of_target_sampler(self, weighs_by_advantage=self.advantage_temperature is not None)
        return found | idle_of_extraction(self)

    def check(self) -> None:
        """Refuses a gradient, weights and a ranking by values if no values are learned."""
        check_extraction(self, self.critics, self.local_head)


@dataclass(frozen=True, kw_only=True)
class DoFCloningSettings(DoFPolicySettings):
    """Settings of behaviour cloning: no values are learned, and nothing ranks candidates."""

    critics: Critics = "none"
    q_gradient: QGradientRoute = "none"
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
        elif settings.q_weight == 0 and settings.q_balance is None:
            settings.check_h(self.data_factorization, otherwise="algorithm.q_weight above 0, ")
        self.gradient_clip = settings.gradient_clip
        self.codec = CODECS[spec.action_kind]
        self.target_sampler = build_target_sampler(settings.target_sampler, self.schedule)
        self.normalizer = build_normalizer(settings.observation_normalizer, spec.statistics.observations)
        self.critics_seeds = settings.seeds if settings.shared_seed_of == "episode" else NO_SEEDS
        self.critic = build_team_critic(spec, settings, self.critics_seeds)
        check_ranking(self.critic, settings.candidates)
        self.value_learning = build_value_learning(spec, settings, self.critics_seeds)
        if settings.value_learning == "implicit":
            self.window = Window(history=0, horizon=2)  # the critics need the data's next action
        self.episode_seed: EpisodeSeedAssignment | None = None
        if settings.shared_seeds is not None and settings.shared_seed_of == "episode":
            self.window = whole_episodes(max(spec.horizon, self.window.horizon))
            self.seed_assignment, self.episode_seed = None, EpisodeSeedAssignment(settings.shared_seeds, spec)
        self.q_gradient = QGradient(settings.q_weight, settings.q_balance)
        self.warm_up = WarmUp(settings.q_warmup_steps)
        self._check_parts()

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, x0 = self._current(batch)
        weight = entry_weight(self.data_mask, x0, now.alive)
        windows = Diffused(x0, now.condition, self.data_mask, weight)
        assigned = self._assign(batch, now, windows, generator, average=False)
        denoised = self.denoise(x0, assigned.tell(now.condition), generator)
        advantage_weights = self._advantage_weights(now, x0, assigned, generator)
        diffusion = self.diffusion_loss(denoised, weight if advantage_weights is None else weight * advantage_weights)
        reconstruction = self.reconstruction_loss(denoised, x0, weight)
        losses = {
            "loss/diffusion": diffusion,
            "loss/reconstruction": reconstruction,
            "diffusion/clipped_share": denoised.clipped_share,
            **assigned.losses,
        }
        if advantage_weights is not None:
            losses["advantage/effective_share"] = effective_share(advantage_weights[..., 0])
        loss = assigned.add_loss(diffusion + self.settings.reconstruction_weight * reconstruction)
        if self.critic is not None:
            rated = self._rated(now, assigned)
            seen = self._experience(batch, rated, x0, assigned, generator)
            of_values = self.value_learning.losses(self.critic, seen, generator)
            losses |= of_values
            loss = loss + sum(value for tag, value in of_values.items() if tag.startswith("loss/"))
            proposal = self._propose(denoised, now, generator, assigned)
            if proposal is not None:
                cloning = Cloning(diffusion, denoised.prediction)
                improvement, of_q = self.q_gradient.losses(self._judge(self.critic, rated), proposal, cloning)
                loss = loss + self.warm_up.choose(improvement, torch.zeros_like(improvement))
                losses |= of_q
        return {"loss": loss, **losses}

    def one_step(self, denoised: Denoised) -> Proposal:
        """The one-step estimate of x0 as an action: a gradient by it reaches denoisers and h.

        Samples are weighted by min(1, SNR_k), because the estimate of x0 carries little information if noise dominates.
        """
        actions = self.data_factorization.join(denoised.x0, denoised.condition) * self.data_mask
        weight = self.schedule.snr(denoised.k, like=actions[..., 0]).clamp(max=1.0)
        return Proposal(actions, weight, (denoised.prediction,))

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The denoising loss of the averaged denoisers, unweighted by f, for all agents together and per agent."""
        diffused = self.diffused(batch, generator)
        denoised = self.denoise(diffused.x0, diffused.condition, generator, average=True)
        return denoised.heldout_errors(diffused.weight, self.spec)

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The current actions `[B, N, A]`, given the observations."""
        now, x0 = self._current(batch)
        unseeded = Diffused(x0, now.condition, self.data_mask, entry_weight(self.data_mask, x0, now.alive))
        assigned = self._assign(batch, now, unseeded, generator, average=True)
        return replace(unseeded, condition=assigned.tell(now.condition))

    def policy(self) -> DiffusionActor:
        """Agents with the averaged denoisers, f and h, and with the target critics, which rank candidates."""
        settings, critic = self.settings, self.critic
        temperature = settings.selection_temperature * (1.0 if critic is None else critic.reward_scale)
        given_seed = self.critics_seeds.count is not None
        actor = DiffusionActor(
            self.acting_model(),
            critic=critic.local if critic is not None and settings.candidates > 1 else None,
            normalizer=self.normalizer,
            action_mask=self.data_mask,
            action_kind=self.spec.action_kind,
            ranking=Ranking(settings.candidates, settings.selection, temperature, given_seed),
        )
        return actor.eval()

    def further_groups(self) -> list[ParameterGroup]:
        """Groups of the critics with the mixer, and of the habits by which episodes are assigned their seeds."""
        groups = [] if self.episode_seed is None else [self.episode_seed.parameter_group()]
        if self.critic is None:
            return groups
        rate, clip = self.settings.critic_learning_rate, self.settings.critic_gradient_clip
        return [ParameterGroup("critic", (self.critic.online, self.value_learning), rate, clip), *groups]

    def remarks(self) -> list[str]:
        """A note if critics learn from rewards whose unit cannot be determined."""
        return [] if self.critic is None else remarks_on_rewards(self.settings.reward_scale, self.spec)

    def after_step(self) -> None:
        """Updates the moving averages of the modules that act and of the target critics."""
        super().after_step()
        self.warm_up.after_step()
        if self.critic is not None:
            self.critic.update_target(self.settings.target_update_rate)

    def _assign(
        self, batch: EpisodeBatch, now: Situation, windows: Diffused, generator: torch.Generator, average: bool
    ) -> Assignment:
        """The shared seeds of the windows, or of the episodes that contain them."""
        if self.episode_seed is None:
            return self.assign_seed(now.condition, windows, generator, average)
        encode = partial(self.codec.encode, mask=self.data_mask[:, None])
        return self.episode_seed.assign(batch, self.normalizer.normalize, encode, generator)

    def _rated(self, situation: Situation, assigned: Assignment) -> Situation:
        """A row as the critics see it: with the seed if it stays the same until the episode's end."""
        return situation.given(self.critics_seeds, assigned.shared_seed)

    def _current(self, batch: EpisodeBatch) -> tuple[Situation, Tensor]:
        """The current row, and the data's actions `[B, N, A]` in it."""
        now = Situation.of(batch, batch.history, self.normalizer)
        return now, self._encoded(batch, batch.history, now)

    def _encoded(self, batch: EpisodeBatch, row: int, like: Situation) -> Tensor:
        """The data's actions in a row, encoded: `[B, N, A]`."""
        return self.codec.encode(batch.actions[:, :, row], self.data_mask, like=like.condition)

    def _experience(
        self, batch: EpisodeBatch, now: Situation, x0: Tensor, assigned: Assignment, generator: torch.Generator
    ) -> Experience:
        following = Situation.of(batch, batch.history + 1, self.normalizer)
        acted = partial(self._act, assigned.tell(following.condition), following.legal, generator)
        next_data = partial(self._encoded, batch, batch.history + 1, now)
        return Experience(batch, now, x0, self._rated(following, assigned), acted, next_data)

    def _advantage_weights(
        self, now: Situation, x0: Tensor, assigned: Assignment, generator: torch.Generator
    ) -> Tensor | None:
        """Weights `[B, N, 1]` of each agent's rows in the noise error; None if all count equally."""
        temperature, critic = self.settings.advantage_temperature, self.critic
        if temperature is None or critic is None:
            return None

        def draw() -> Tensor:
            condition = assigned.tell(now.condition).repeat(ADVANTAGE_SAMPLES, 1, 1)
            actions = self._act(condition, now.repeat(ADVANTAGE_SAMPLES).legal, generator)
            return actions.unflatten(0, (ADVANTAGE_SAMPLES, -1))  # type: ignore[no-untyped-call]

        advantage = self.value_learning.advantage(critic, self._rated(now, assigned), x0, draw)
        counts = torch.ones_like(advantage, dtype=torch.bool) if now.alive is None else now.alive
        weights = Weighted(temperature * critic.reward_scale).weights(advantage, counts)
        return self.warm_up.choose(weights, counts.to(weights))[..., None]

    def _propose(
        self, denoised: Denoised, now: Situation, generator: torch.Generator, assigned: Assignment
    ) -> Proposal | None:
        """The actions that Q's gradient improves, by the route of the settings; None if there is no such gradient.

        The full route runs the chain that acts: a shorter one would leave the skipped steps to cloning alone.
        """
        if self.settings.q_gradient != "full":
            return self.one_step(denoised) if self.settings.q_gradient == "one_step" else None
        noise = self._chain_noise(self.sampler, now.condition, generator)
        actions, outputs = self.learning_sample(assigned.tell(now.condition), noise, self.sampler)
        return Proposal(actions, torch.ones_like(actions[..., :1, 0]), outputs, repeats=self.schedule.steps)

    @torch.no_grad()
    def _act(self, condition: Tensor, legal: Tensor | None, generator: torch.Generator) -> Tensor:
        """The averaged actors' actions `[B, N, A]`, drawn by the few steps of `target_sampler`."""
        noise = self._chain_noise(self.target_sampler, condition, generator)
        actions = self.acting_sample(condition, noise, self.target_sampler)
        return self.codec.finish(actions.clamp(-self.clip_range, self.clip_range), self.data_mask, legal)

    def _chain_noise(self, sampler: Sampler, condition: Tensor, generator: torch.Generator) -> Tensor:
        shape = (sampler.n_noises, *condition.shape[:2], self.spec.action_dim)
        return self.draw_noise(shape, generator, condition.dtype)

    def _judge(self, critic: TeamCritic, now: Situation) -> Judge:
        """The frozen critics' values of estimated actions, `[B, N]` or `[B, 1]`."""

        def judge(actions: Tensor) -> Tensor:
            actions = clip_with_way_back(actions, self.clip_range)
            return critic.frozen_values(now, self.codec.relax(actions, self.data_mask, now.legal))

        return judge
