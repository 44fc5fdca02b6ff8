"""An actor and twin critics an agent, and their averages: what continuous baselines have in common."""

from typing import ClassVar, cast

import torch
from torch import Tensor

from dof_lightning.actors.direct import DirectActor
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.critics import MixedCritic, Situation, TeamCritic
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.algorithms.parts.settings import check_local, check_ranges
from dof_lightning.batch import EpisodeBatch
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec


class ActorCritic(Algorithm):
    """Actors a_i = tanh(mu_i(o_i)) and critics; subclasses say how both learn (`losses`) and which rows they need.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        actor: mu_i; of what it says, the first A numbers are the action.
        values: of the agents, or of the team.
        discount: gamma.
        reward_scale: the critics see rewards times this; None means 1 / std of the dataset's episode returns.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of the actors.
        critic_learning_rate: of the critics.
        gradient_clip: largest norm of each agent's actor's gradient, None for no clipping.
        critic_gradient_clip: the same of its critics.
        ema_decay: of the averaged actors that act.
        target_update_rate: tau of the target critics.
        execution: `decentralized`, there is no other.

    Raises:
        UserError: a value is out of range, or actions are discrete.
    """

    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("continuous",)
    action_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        actor: AgentwiseActor,
        values: MixedCritic,
        discount: float,
        reward_scale: float | None,
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
            learning_rate=learning_rate,
            critic_learning_rate=critic_learning_rate,
            gradient_clip=gradient_clip,
            critic_gradient_clip=critic_gradient_clip,
            ema_decay=ema_decay,
            target_update_rate=target_update_rate,
        )
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        self.actor = actor
        self.average_actor = ema_copy(self.actor)
        scale = reward_scale if reward_scale is not None else 1.0 / max(spec.statistics.return_std, 1e-6)
        self.critic = TeamCritic(values, discount, scale)
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.gradient_clip = gradient_clip
        self.critic_gradient_clip = critic_gradient_clip
        self.ema_decay = ema_decay
        self.target_update_rate = target_update_rate

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
