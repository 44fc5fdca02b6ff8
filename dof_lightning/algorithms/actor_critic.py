"""Deterministic actors with twin critics, as TD3 has them, an agent each: what continuous baselines have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor

from dof_lightning.actors.direct import DirectActor
from dof_lightning.algorithms.action_losses import squared_error, weighted_mean
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.settings import check_local, check_ranges
from dof_lightning.algorithms.team_critic import TeamCritic
from dof_lightning.algorithms.values import MixedCritic, Situation
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec

NOISE_LIMIT = 0.5  # of the target actions' smoothing noise (TD3, Fujimoto et al., 2018)


class DeterministicActorCritic(Algorithm):
    """Every agent learns alone: a_i = tanh(mu_i(o_i)), twin Q_i(o_i, a_i) from its own reward (independent TD3).

    Subclasses say what keeps an agent near the data: `actor_loss`, and `critic_penalty` where there is one. Differences
    from TD3 (Fujimoto et al., 2018): actors move at every update instead of every second one, and the averaged actors
    both make the TD targets and act.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        actor: mu_i, called with the spec and `condition_dim`.
        critic: twin Q_i, called with the spec and `condition_dim`.
        discount: gamma.
        reward_scale: the critics see rewards times this; None means 1 / std of the dataset's episode returns.
        target_noise: standard deviation of the noise on target actions, in [0, 1].
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of the actors.
        critic_learning_rate: of the critics.
        gradient_clip: largest norm of each agent's actor's gradient, None for no clipping.
        critic_gradient_clip: the same of its critics.
        ema_decay: of the averaged actors.
        target_update_rate: tau of the target critics.
        execution: `decentralized`, there is no other.

    Raises:
        UserError: a value is out of range, or actions are discrete.
    """

    window = Window(history=0, horizon=1)
    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("continuous",)
    action_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        actor: Callable[..., AgentwiseActor],
        critic: Callable[..., AgentwiseCritic],
        discount: float,
        reward_scale: float | None,
        target_noise: float,
        observation_normalizer: str,
        learning_rate: float,
        critic_learning_rate: float,
        gradient_clip: float | None,
        critic_gradient_clip: float | None,
        ema_decay: float,
        target_update_rate: float,
        execution: str = "decentralized",
    ) -> None:
        super().__init__(spec, seed)
        check_local(execution)
        check_ranges(
            discount=discount,
            reward_scale=reward_scale,
            target_noise=target_noise,
            learning_rate=learning_rate,
            critic_learning_rate=critic_learning_rate,
            gradient_clip=gradient_clip,
            critic_gradient_clip=critic_gradient_clip,
            ema_decay=ema_decay,
            target_update_rate=target_update_rate,
        )
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        self.actor = actor(spec, condition_dim=spec.observation_dim)
        self.average_actor = ema_copy(self.actor)
        scale = reward_scale if reward_scale is not None else 1.0 / max(spec.statistics.return_std, 1e-6)
        values = MixedCritic(critic(spec, condition_dim=spec.observation_dim), mixer=None)
        self.critic = TeamCritic(values, discount, scale)
        self.target_noise = target_noise
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.gradient_clip = gradient_clip
        self.critic_gradient_clip = critic_gradient_clip
        self.ema_decay = ema_decay
        self.target_update_rate = target_update_rate

    @abstractmethod
    def actor_loss(
        self, now: Situation, actions: Tensor, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What the actors minimise, as `loss/actor`, and further scalars by tag; the critics get no gradient from it.

        Args:
            now: the current row.
            actions: `[B, N, A]`, the actors', with their gradient.
            data: `[B, N, A]`, the data's.
            weight: `[B, N]`, 0 where a row does not count.
            generator: draws what is random.
        """

    def critic_penalty(self, now: Situation, data: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor | None:
        """What is added to the squared TD error; None where nothing is. Arguments as `actor_loss`."""
        return None

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, following = (self.situation(batch, row) for row in (0, 1))
        data, weight = batch.actions[:, :, 0], batch.transition_mask[:, :, 0].float()
        losses = self.critic.losses(batch, now, data, following, self._target_actions(following, generator))
        loss = losses["loss/critic"]
        penalty = self.critic_penalty(now, data, weight, generator)
        if penalty is not None:
            losses["loss/penalty"] = penalty
            loss = loss + penalty
        losses |= self.actor_loss(now, self.act(self.actor, now), data, weight, generator)
        return {"loss": loss + losses["loss/actor"], **losses}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """How far the averaged actors are from what the data's did."""
        actions = self.act(self.average_actor, self.situation(batch, 0))
        weight = batch.transition_mask[:, :, 0].float()
        return {"heldout/cloning": squared_error(actions, batch.actions[:, :, 0], self.action_mask, weight)}

    def policy(self) -> DirectActor:
        """Agents with the averaged actors."""
        network = cast(AgentwiseActor, whole(self.average_actor))
        return DirectActor(network, self.normalizer, self.action_mask).eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Actors and critics."""
        return [
            ParameterGroup("actor", (self.actor,), self.learning_rate, self.gradient_clip),
            ParameterGroup("critic", (self.critic.online,), self.critic_learning_rate, self.critic_gradient_clip),
        ]

    def after_step(self) -> None:
        """Moves the averages: what acts, and the target critics."""
        ema_update(self.average_actor, self.actor, self.ema_decay)
        self.critic.update_target(self.target_update_rate)

    def situation(self, batch: EpisodeBatch, row: int) -> Situation:
        """A row of a batch as actors and critics see it."""
        return Situation(
            condition=self.normalizer.normalize(batch.observations[:, :, row]),
            alive=None if batch.alive is None else batch.alive[:, :, row],
        )

    def act(self, actor: AgentwiseActor, situation: Situation) -> Tensor:
        """`[B, N, A]` in [-1, 1], 0 where padded."""
        said = actor(situation.condition)
        return torch.tanh(said[..., : self.action_mask.shape[-1]]) * self.action_mask

    def shrinkage(self, actions: Tensor, weight: Tensor) -> Tensor:
        """1e-3 E ||a||^2, which keeps actions off the ends of tanh (OMAR, Pan et al., 2022)."""
        return 1e-3 * squared_error(actions, torch.zeros_like(actions), self.action_mask, weight)

    def mean_value(self, values: Tensor, weight: Tensor) -> Tensor:
        """E[Q] of values `[B, N]`, in the rewards' own unit."""
        return weighted_mean(values, weight) / self.critic.reward_scale

    @torch.no_grad()
    def _target_actions(self, following: Situation, generator: torch.Generator) -> Tensor:
        """The averaged actors' actions, smoothed by clipped noise (TD3, eq. 14)."""
        actions = self.act(self.average_actor, following)
        noise = torch.randn(actions.shape, generator=generator, device=actions.device, dtype=actions.dtype)
        noise = (self.target_noise * noise).clamp(-NOISE_LIMIT, NOISE_LIMIT)
        return (actions + noise).clamp(-1.0, 1.0) * self.action_mask
