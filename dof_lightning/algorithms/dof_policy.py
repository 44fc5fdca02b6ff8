"""DoF-Policy: diffuse each agent's action given its own observation, improve it by the gradient of Q."""

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.algorithms.base import ParameterGroup, mean_over_ranks
from dof_lightning.algorithms.dof import Denoised, DoFLightningModule, clip_with_way_back
from dof_lightning.algorithms.team_critic import MixedCritic, TeamCritic
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.errors import UserError
from dof_lightning.factorization.base import Factorization, ValueMixer
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec

Critics = Literal["none", "separate", "mixed"]
QGradient = Literal["none", "one_step"]


class DoFPolicy(DoFLightningModule):
    """Loss: L = L_bc + eta L_q + lambda L_h + L_critic (reference/method.md section 3).

    L_bc is the f-joined noise error, L_h trains h to reconstruct the data, L_critic the twin critics' TD error, and
    L_q = -E[min(1, SNR_k) Q(o, h(x0))] / |Q| lets the critics' gradient reach the denoisers through the one-step
    estimate of x0 that L_bc's own forward pass gives (EDP, Kang et al. 2023).

    Args:
        spec: the dataset's spec; actions must be continuous.
        seed: the run's seed.
        denoiser: called with the spec and `condition_dim`.
        noise_factorization, data_factorization, schedule, sampler: see `DoFLightningModule`.
        critic: twin critics, called with the spec and `condition_dim`.
        value_mixer: mixes Q_i to Q_tot, called with the spec and `state_dim`; used with `critics=mixed`.
        target_sampler: few-step sampler of the next actions in the TD target, called with the schedule.
        critics: `none`, `separate` (agent i learns Q_i from r_i) or `mixed` (Q_tot from the team's mean reward).
        q_gradient: `none` (cloning) or `one_step`.
        q_weight: eta.
        reconstruction_weight: lambda.
        discount: gamma of the TD targets.
        reward_scale: the critics see rewards times this; None means 1 / std of the dataset's episode returns.
        candidates: M, actions an agent draws at execution and ranks by its own Q_i.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of the denoisers, f and h.
        critic_learning_rate: of critics and mixer.
        gradient_clip: largest norm per agent of the denoisers' gradient, None for no clipping.
        critic_gradient_clip: the same for the critics.
        ema_decay: of the denoisers and h.
        target_update_rate: tau of the target critics.

    Raises:
        UserError: the settings contradict each other, or actions are discrete.
    """

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
    ) -> None:
        if spec.action_kind != "continuous":
            raise UserError(
                f"algorithm=dof_policy diffuses continuous actions; dataset {spec.name!r} has discrete ones"
            )
        bank = denoiser(spec, condition_dim=spec.observation_dim)
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
        )
        self.q_gradient = q_gradient
        self.q_weight = q_weight
        self.reconstruction_weight = reconstruction_weight
        self.candidates = candidates
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.gradient_clip = gradient_clip
        self.critic_gradient_clip = critic_gradient_clip
        self.target_update_rate = target_update_rate
        self.target_sampler = target_sampler(self.schedule)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        self.critic: TeamCritic | None = None
        if critics != "none":
            scale = reward_scale if reward_scale is not None else 1.0 / max(spec.statistics.return_std, 1e-6)
            mixer = value_mixer if critics == "mixed" else None
            self.critic = TeamCritic(spec, critic, mixer, discount=discount, reward_scale=scale)
        self._check_settings(critics)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        condition, x0, alive = self._current(batch)
        weight = self.entry_weight(x0, alive)
        denoised = self.denoise(x0, condition, generator)
        diffusion = self.diffusion_loss(denoised, weight)
        reconstruction = self.reconstruction_loss(denoised, x0, weight)
        losses = {
            "loss/diffusion": diffusion,
            "loss/reconstruction": reconstruction,
            "diffusion/clipped_share": denoised.clipped_share,
        }
        loss = diffusion + self.reconstruction_weight * reconstruction
        if self.critic is not None:
            losses |= self.critic.losses(batch, condition, x0, self._next_actions(batch, generator))
            loss = loss + losses["loss/critic"]
            if self.q_gradient == "one_step":
                losses["loss/q"] = self.q_loss(self.critic, denoised, condition, alive)
                loss = loss + self.q_weight * losses["loss/q"]
        return {"loss": loss, **losses}

    def q_loss(self, critic: TeamCritic, denoised: Denoised, condition: Tensor, alive: Tensor | None = None) -> Tensor:
        """L_q, whose gradient reaches denoisers and h but not the critics.

        Samples weigh min(1, SNR_k), because the estimate of x0 says little where noise dominates. |Q| is the mean
        over the global batch, for each agent where critics are separate.

        Args:
            critic: the team's.
            denoised: from `denoise`.
            condition: `[B, N, C]`.
            alive: `[B, N]` bool, None where agents never die.
        """
        actions = clip_with_way_back(self.data_factorization.join(denoised.x0), self.clip_range)
        values = critic.frozen_values(condition, actions, alive)
        weight = self.schedule.snr(denoised.k, like=values).clamp(max=1.0)
        scale = mean_over_ranks(values.detach().abs().mean(0)).clamp_min(1e-6)
        return -(weight * values).mean(0).div(scale).mean()

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The denoising loss of the averaged denoisers, unweighted by f, all agents' and each agent's."""
        condition, x0, alive = self._current(batch)
        weight = self.entry_weight(x0, alive)
        denoised = self.denoise(x0, condition, generator, average=True)
        error = weight * (denoised.prediction - denoised.noise).square()
        agents = error.sum((0, 2)) / weight.sum((0, 2)).clamp_min(1e-12)
        return {"heldout/diffusion": error.sum()} | {
            f"heldout/diffusion_{agent.name}": agents[i] for i, agent in enumerate(self.spec.environment.agents)
        }

    def policy(self) -> DiffusionActor:
        """Agents with the averaged denoisers and h, and the target critics to rank candidates."""
        target = None if self.critic is None or self.candidates == 1 else cast(MixedCritic, whole(self.critic.target))
        critic = None if target is None else target.critic
        actor = DiffusionActor(
            cast(MLPDenoiser, whole(self.average_denoiser)),
            self.noise_factorization,
            self.average_data_factorization,
            critic,
            self.normalizer,
            self.sampler,
            self.candidates,
            self.clip_range,
            self.data_mask,
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
        return [group for group in groups if group.parameters()]

    def after_step(self) -> None:
        """Moves the averages: what acts, and the target critics."""
        super().after_step()
        if self.critic is not None:
            self.critic.update_target(self.target_update_rate)

    def _current(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Condition `[B, N, O]`, data `[B, N, A]` and who is alive `[B, N]` at the current row."""
        now = batch.history
        condition = self.normalizer.normalize(batch.observations[:, :, now])
        actions = batch.actions[:, :, now]
        return condition, actions, None if batch.alive is None else batch.alive[:, :, now]

    @torch.no_grad()
    def _next_actions(self, batch: EpisodeBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Next condition `[B, N, O]` and the averaged actors' actions `[B, N, A]` there."""
        condition = self.normalizer.normalize(batch.observations[:, :, batch.history + 1])
        shape = (self.target_sampler.n_noises, *condition.shape[:2], self.spec.action_dim)
        noise = self.draw_noise(shape, generator, condition.dtype)
        actions = self.local_sample(condition, noise, self.target_sampler)
        return condition, actions.clamp(-self.clip_range, self.clip_range)

    def _check_settings(self, critics: Critics) -> None:
        self._check_ranges(critics)
        learns_h = any(True for _ in self.data_factorization.parameters())
        if self.q_gradient != "none" and critics == "none":
            raise UserError("algorithm.q_gradient=one_step needs algorithm.critics=separate or mixed")
        if learns_h and self.q_gradient == "none" and self.reconstruction_weight == 0:
            raise UserError(
                "data_factorization would get no gradient: set algorithm.reconstruction_weight above 0, "
                "algorithm.q_gradient=one_step, or data_factorization=concat"
            )
        if self.candidates > 1 and critics == "none":
            raise UserError(
                "algorithm.candidates above 1 needs critics to rank them: set algorithm.critics or candidates=1"
            )
        if self.candidates < 1:
            raise UserError(f"algorithm.candidates={self.candidates} must be at least 1")

    def _check_ranges(self, critics: Critics) -> None:
        for key, choice, choices in (("critics", critics, Critics), ("q_gradient", self.q_gradient, QGradient)):
            if choice not in get_args(choices):
                raise UserError(f"algorithm.{key}={choice} is unknown; choose one of {', '.join(get_args(choices))}")
        discount = 0.0 if self.critic is None else self.critic.discount
        shares = {"ema_decay": self.ema_decay, "target_update_rate": self.target_update_rate, "discount": discount}
        for key, value in shares.items():
            if not 0.0 <= value <= 1.0:
                raise UserError(f"algorithm.{key}={value} must be between 0 and 1")
