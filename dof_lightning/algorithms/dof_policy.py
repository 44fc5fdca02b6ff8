"""DoF-Policy: diffuse each agent's action given its own observation, improve it by the gradient of Q."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.actors.diffusion import DiffusionActor, Execution, Selection
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.parts.critics import (
    Situation,
    TeamCritic,
    build_team_critic,
    check_ranking,
    negative_value,
)
from dof_lightning.algorithms.parts.diffused import Denoised, Diffused
from dof_lightning.algorithms.parts.policy_settings import Critics, QGradient, check_settings
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.clip import clip_with_way_back
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.factorization.base import Factorization, ValueMixer
from dof_lightning.networks.critic import AgentwiseCritic, JointCritic
from dof_lightning.networks.denoiser import Diffuses
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec


class DoFPolicy(DoFLightningModule):
    """Loss: L = L_bc + eta L_q + lambda L_h + L_critic (reference/method.md section 3).

    L_bc is the f-joined noise error, L_h trains h to reconstruct the data, L_critic the twin critics' TD error, and
    L_q = -E[min(1, SNR_k) Q(o, h(x0))] / |Q| lets the critics' gradient reach the denoisers through the one-step
    estimate of x0 that L_bc's own forward pass gives (EDP, Kang et al. 2023), or, without the SNR, through the whole
    chain of the sampler (Diffusion-QL, Wang et al., 2023). Discrete actions diffuse as one-hot vectors.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        denoiser: called with the spec and `condition_dim`.
        noise_factorization, data_factorization, schedule, sampler: see `DoFLightningModule`.
        critic: twin Q_i(o_i, a_i), called with the spec and `condition_dim`.
        joint_critic: twin Q(s, a_1..a_N), called with the spec and `context_dim`; used with `critics=joint`.
        value_mixer: mixes Q_i to Q_tot, called with the spec and `state_dim`; used with `critics=mixed`.
        target_sampler: few-step sampler of the next actions in the TD target, called with the schedule.
        critics: `none`, `separate` (agent i learns Q_i from r_i), `mixed` (Q_tot from the team's mean reward) or
            `joint` (one Q of all actions, in the state where the dataset has one).
        local_head: with `critics=joint`, distil the joint Q into the agents' own Q_i.
        q_gradient: `none` (cloning), `one_step` or `full`.
        q_weight: eta.
        reconstruction_weight: lambda.
        discount: gamma of the TD targets.
        reward_scale: the critics see rewards times this; None means 1 / std of the dataset's episode returns.
        candidates: M, actions an agent draws at execution and ranks by its own Q_i.
        selection: `argmax` takes the best candidate, `softmax` draws one with probability ~ exp(Q_i / temperature).
        selection_temperature: in the rewards' own unit, above 0.
        execution: `decentralized` or `centralized`, see `DoFLightningModule`.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of the denoisers, f and h.
        critic_learning_rate: of critics and mixer.
        gradient_clip: largest norm per agent of the denoisers' gradient, None for no clipping.
        critic_gradient_clip: the same for the critics.
        ema_decay: of the denoisers and h.
        target_update_rate: tau of the target critics.
        shared_seeds: M of the agents' common seed, None for none (docs/shared_seed.md); critics are not told it.

    Raises:
        UserError: the settings contradict each other.
    """

    diffuses: ClassVar[Diffuses] = "actions"
    window = Window(history=0, horizon=1)
    average_denoiser: MLPDenoiser

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        denoiser: Callable[..., MLPDenoiser],
        noise_factorization: Callable[[DatasetSpec], Factorization],
        data_factorization: Callable[[DatasetSpec], Factorization],
        schedule: Callable[[], Schedule],
        sampler: Callable[[Schedule], Sampler],
        critic: Callable[..., AgentwiseCritic],
        value_mixer: Callable[..., ValueMixer],
        target_sampler: Callable[[Schedule], Sampler],
        critics: Critics,
        q_gradient: QGradient,
        q_weight: float,
        reconstruction_weight: float,
        discount: float,
        reward_scale: float | None,
        candidates: int,
        observation_normalizer: str,
        learning_rate: float,
        critic_learning_rate: float,
        gradient_clip: float | None,
        critic_gradient_clip: float | None,
        ema_decay: float,
        target_update_rate: float,
        joint_critic: Callable[..., JointCritic] = JointCritic,
        local_head: bool = True,
        selection: Selection = "argmax",
        selection_temperature: float = 1.0,
        execution: Execution = "decentralized",
        shared_seeds: int | None = None,
    ) -> None:
        bank = denoiser(spec, condition_dim=spec.observation_dim + (shared_seeds or 0))
        super().__init__(
            spec,
            seed,
            bank,
            noise_factorization,
            data_factorization,
            schedule,
            sampler,
            ema_decay,
            data_mask=spec.environment.action_mask(),
            execution=execution,
            shared_seeds=shared_seeds,
            known_dim=spec.observation_dim,
        )
        settings = {
            "critics": critics,
            "q_gradient": q_gradient,
            "selection": selection,
            "selection_temperature": selection_temperature,
            "candidates": candidates,
            "local_head": local_head,
            "reconstruction_weight": reconstruction_weight,
            "discount": discount,
            "ema_decay": ema_decay,
            "target_update_rate": target_update_rate,
            "q_weight": q_weight,
            "learning_rate": learning_rate,
            "critic_learning_rate": critic_learning_rate,
            "gradient_clip": gradient_clip,
            "critic_gradient_clip": critic_gradient_clip,
            "reward_scale": reward_scale,
        }
        check_settings(settings, learns_h=any(True for _ in self.data_factorization.parameters()))
        self.q_gradient = q_gradient
        self.q_weight = q_weight
        self.reconstruction_weight = reconstruction_weight
        self.candidates = candidates
        self.selection: Selection = selection
        self.selection_temperature = selection_temperature
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.gradient_clip = gradient_clip
        self.critic_gradient_clip = critic_gradient_clip
        self.target_update_rate = target_update_rate
        self.codec = CODECS[spec.action_kind]
        self.target_sampler = target_sampler(self.schedule)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        parts = (critic, value_mixer, joint_critic)
        self.critic = build_team_critic(spec, critics, *parts, local_head, discount, reward_scale)
        check_ranking(self.critic, candidates)
        self._check_parts()

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, x0 = self._current(batch)
        weight = self.entry_weight(x0, now.alive)
        told = self.assign_seed(now.condition, x0, now.condition, weight, generator, average=False)
        denoised = self.denoise(x0, told.tell(now.condition), generator)
        diffusion = self.diffusion_loss(denoised, weight)
        reconstruction = self.reconstruction_loss(denoised, x0, weight)
        losses = {
            "loss/diffusion": diffusion,
            "loss/reconstruction": reconstruction,
            "diffusion/clipped_share": denoised.clipped_share,
            **told.losses,
        }
        loss = diffusion + self.reconstruction_weight * reconstruction
        loss = told.add_loss(loss)
        if self.critic is not None:
            losses |= self.critic.losses(batch, now, x0, *self._next_actions(batch, told, generator))
            loss = loss + losses["loss/critic"] + losses.get("loss/local_head", 0.0)
            if self.q_gradient == "one_step":
                losses["loss/q"] = self.q_loss(self.critic, denoised, now)
            elif self.q_gradient == "full":
                losses["loss/q"] = self.full_q_loss(self.critic, now, generator, told)
            if "loss/q" in losses:
                loss = loss + self.q_weight * losses["loss/q"]
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
        error = diffused.weight * (denoised.prediction - denoised.noise).square()
        agents = error.sum((0, 2)) / diffused.weight.sum((0, 2)).clamp_min(1e-12)
        return {"heldout/diffusion": error.sum()} | {
            f"heldout/diffusion_{agent.name}": agents[i] for i, agent in enumerate(self.spec.environment.agents)
        }

    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The current actions `[B, N, A]`, given the observations."""
        now, x0 = self._current(batch)
        weight = self.entry_weight(x0, now.alive)
        told = self.assign_seed(now.condition, x0, now.condition, weight, generator, average=True)
        return Diffused(x0, told.tell(now.condition), self.data_mask, weight)

    def policy(self) -> DiffusionActor:
        """Agents with the averaged denoisers, f and h, and the target critics to rank candidates."""
        ranks = self.critic is not None and self.candidates > 1
        actor = DiffusionActor(
            cast(MLPDenoiser, whole(self.average_denoiser)),
            self.average_noise_factorization,
            self.average_data_factorization,
            self.critic.local if self.critic is not None and ranks else None,
            self.normalizer,
            self.sampler,
            self.candidates,
            self.clip_range,
            self.data_mask,
            self.spec.action_kind,
            self.selection,
            self.selection_temperature * (1.0 if self.critic is None else self.critic.reward_scale),
            self.execution,
            self.shared_seeds,
        )
        return actor.eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Denoisers, factorisation (f and h), critics (with the mixer)."""
        factorization = (self.noise_factorization, self.data_factorization)
        groups = [
            ParameterGroup("denoiser", (self.denoiser,), self.learning_rate, self.gradient_clip),
            ParameterGroup("factorization", factorization, self.learning_rate, None),
        ]
        if self.critic is not None:
            clip = self.critic_gradient_clip
            groups.append(ParameterGroup("critic", (self.critic.online,), self.critic_learning_rate, clip))
        if self.seed_assignment is not None:
            groups += self.seed_assignment.parameter_groups()
        return [group for group in groups if group.parameters()]

    def after_step(self) -> None:
        """Moves the averages: what acts, and the target critics."""
        super().after_step()
        if self.critic is not None:
            self.critic.update_target(self.target_update_rate)

    def _current(self, batch: EpisodeBatch) -> tuple[Situation, Tensor]:
        """The current row, and the data `[B, N, A]` there."""
        now = self._situation(batch, batch.history)
        return now, self.codec.encode(batch.actions[:, :, batch.history], self.data_mask, like=now.condition)

    @torch.no_grad()
    def _next_actions(
        self, batch: EpisodeBatch, told: Assignment, generator: torch.Generator
    ) -> tuple[Situation, Tensor]:
        """The row after the current one, and the averaged actors' actions `[B, N, A]` there given the same seed."""
        following = self._situation(batch, batch.history + 1)
        noise = self._chain_noise(self.target_sampler, following.condition, generator)
        actions = self.acting_sample(told.tell(following.condition), noise, self.target_sampler)
        actions = actions.clamp(-self.clip_range, self.clip_range)
        return following, self.codec.finish(actions, self.data_mask, following.legal)

    def _situation(self, batch: EpisodeBatch, row: int) -> Situation:
        return Situation(
            condition=self.normalizer.normalize(batch.observations[:, :, row]),
            alive=None if batch.alive is None else batch.alive[:, :, row],
            legal=None if batch.legal is None else batch.legal[:, :, row],
            state=None if batch.state is None else batch.state[:, row],
        )

    def _chain_noise(self, sampler: Sampler, condition: Tensor, generator: torch.Generator) -> Tensor:
        shape = (sampler.n_noises, *condition.shape[:2], self.spec.action_dim)
        return self.draw_noise(shape, generator, condition.dtype)

    def _values(self, critic: TeamCritic, actions: Tensor, now: Situation) -> Tensor:
        """The frozen critics' values of estimated actions, `[B, N]` or `[B, 1]`."""
        actions = clip_with_way_back(actions, self.clip_range)
        return critic.frozen_values(now, self.codec.relax(actions, self.data_mask, now.legal))
