"""The common part of continuous baselines: an actor and twin critics per agent, and their averages."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.actors.direct import DirectActor
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.parts.baseline import Baseline, BaselineSettings, Learned
from dof_lightning.algorithms.parts.critics import MixedCritic, Situation, TeamCritic
from dof_lightning.algorithms.parts.losses import squared_error
from dof_lightning.algorithms.parts.reward_units import remarks_on_rewards, scale_of_rewards
from dof_lightning.algorithms.parts.value_learning import Experience, TemporalDifference, ValueLearning
from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.ema import ema_copy
from dof_lightning.settings import Fraction, Positive, UpdateRate
from dof_lightning.spec import ActionKind, DatasetSpec

SMALL_CRITIC = partial(AgentwiseCritic, hidden=(64, 64), activation="relu")


@dataclass(frozen=True, kw_only=True)
class ActorCriticSettings(BaselineSettings):
    """Settings that continuous baselines with critics share.

    Attributes:
        actor: mu_i, called with the spec and `condition_dim`.
        critic: twin Q_i, called with the spec and `condition_dim`.
        discount: gamma of the TD targets.
        reward_scale: the critics see rewards times this; None means 1 / std of the dataset's episode returns, 1 if they
            are all the same.
        critic_learning_rate: Adam's learning rate for critics.
        critic_gradient_clip: largest norm of the gradient of each agent's critics; None means no clipping.
        target_update_rate: tau, update rate of the target critics.
    """

    actor: Callable[..., AgentwiseActor] = AgentwiseActor
    critic: Callable[..., AgentwiseCritic] = SMALL_CRITIC
    discount: Fraction = 0.95
    reward_scale: Positive | None = None
    critic_learning_rate: Positive = 3e-4
    gradient_clip: Positive | None = 0.5
    critic_gradient_clip: Positive | None = 0.5
    target_update_rate: UpdateRate = 0.005


class ActorCritic(Baseline):
    """Actors a_i = tanh(mu_i(o_i)) and critics; subclasses choose value learning, extraction and window.

    Raises:
        UserError: actions are discrete.
    """

    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("continuous",)
    settings: ActorCriticSettings

    def __init__(self, spec: DatasetSpec, settings: ActorCriticSettings) -> None:
        super().__init__(spec, settings)
        self.actor = self.build_actor()
        self.average_actor = ema_copy(self.actor)
        mixer = self.build_mixer()
        values = MixedCritic(settings.critic(spec, condition_dim=spec.observation_dim), mixer)
        self.critic = TeamCritic(values, settings.discount, scale_of_rewards(settings.reward_scale, spec))
        self.value_learning = self.build_value_learning()

    def build_actor(self) -> AgentwiseActor:
        """Builds mu_i with fresh weights; the first A numbers of its output are the action."""
        return self.settings.actor(self.spec, condition_dim=self.spec.observation_dim)

    def build_mixer(self) -> ValueMixer | None:
        """Builds the mixer from the agents' values to the team's; None if agents learn from their own rewards."""
        return None

    def build_value_learning(self) -> ValueLearning:
        """Builds the rule by which the critics learn."""
        return TemporalDifference()

    @abstractmethod
    def improvement(
        self, now: Situation, data: Tensor, counts: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The loss of the actors, as `loss/actor`, and further scalars by tag; the critics get no gradient from it.

        Args:
            now: the current row.
            data: `[B, N, A]`, the data's actions in that row.
            counts: `[B, N]` bool, which rows count.
            generator: draws what is random.
        """

    def target_actions(self, following: Situation, generator: torch.Generator) -> Tensor:
        """The averaged actors' actions `[B, N, A]` in TD targets."""
        return self.act(self.average_actor, following)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        now, following = (self.situation(batch, row) for row in (0, 1))
        data = batch.actions[:, :, 0]
        acted = partial(self.target_actions, following, generator)
        seen = Experience(batch, now, data, following, acted, lambda: batch.actions[:, :, 1])
        losses = self.value_learning.losses(self.critic, seen, generator)
        loss = torch.stack([value for tag, value in losses.items() if tag.startswith("loss/")]).sum()
        losses |= self.improvement(now, data, seen.counts, generator)
        return {"loss": loss + losses["loss/actor"], **losses}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The distance of the averaged actors from the data's actions."""
        actions = self.act(self.average_actor, self.situation(batch, 0))
        weight = batch.transition_mask[:, :, 0].float()
        return {"heldout/cloning": squared_error(actions, batch.actions[:, :, 0], self.action_mask, weight)}

    def policy(self) -> DirectActor:
        """Agents with the averaged actors."""
        return self.players(DirectActor, self.average_actor)

    def learned(self) -> list[Learned]:
        """The actors; critics have their own learning rate."""
        return [Learned("actor", self.actor, self.average_actor)]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of the actors and of the critics."""
        rate, clip = self.settings.critic_learning_rate, self.settings.critic_gradient_clip
        return [
            *super().parameter_groups(),
            ParameterGroup("critic", (self.critic.online, self.value_learning), rate, clip),
        ]

    def remarks(self) -> list[str]:
        """A note if the unit of the rewards cannot be determined."""
        return remarks_on_rewards(self.settings.reward_scale, self.spec)

    def after_step(self) -> None:
        """Updates the moving averages of the actors and of the target critics."""
        super().after_step()
        self.critic.update_target(self.settings.target_update_rate)

    def situation(self, batch: EpisodeBatch, row: int) -> Situation:
        """A row of a batch as actors and critics see it."""
        return Situation.of(batch, row, self.normalizer)

    def act(self, actor: AgentwiseActor, situation: Situation) -> Tensor:
        """Actions `[B, N, A]` in [-1, 1], 0 for padding."""
        said = actor(situation.condition)
        return torch.tanh(said[..., : self.action_mask.shape[-1]]) * self.action_mask
