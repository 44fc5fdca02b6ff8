"""MAICQ on discrete actions: values of the data's actions only, and actors that clone the most valuable ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.actors.direct import ChoosingActor
from dof_lightning.algorithms.parts.baseline import Learned
from dof_lightning.algorithms.parts.losses import (
    ImplicitConstraintSettings,
    batch_weights,
    log_probability,
    weighted_mean,
)
from dof_lightning.algorithms.parts.sequences import Sequences, chosen
from dof_lightning.algorithms.qmix import QMIX, QMIXSettings, Values
from dof_lightning.factorization.value import StateWeighted
from dof_lightning.networks.ema import ema_copy
from dof_lightning.spec import ActionKind, DatasetSpec


@dataclass(frozen=True, kw_only=True)
class DiscreteMAICQSettings(QMIXSettings, ImplicitConstraintSettings):
    """Settings of `DiscreteMAICQ`, whose pi_i are `recurrent` networks as its Q_i are.

    Attributes:
        value_mixer: mixer with weights k and bias b, called with the spec and `state_dim`.
    """

    value_mixer: Callable[..., StateWeighted] = StateWeighted

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; if the future does not count, no TD target is weighted."""
        void = {"critic_temperature": "algorithm.discount=0"} if self.discount == 0 else {}
        return super().idle(action_kind) | void


class DiscreteMAICQ(QMIX, made_by=DiscreteMAICQSettings):
    """ICQ-MA (Yang et al., 2021) with actors on discrete choices.

    Critic: 1/2 (y - Q_tot(s, a))^2 with y = r + gamma (1 - d) w Q_tot'(s', a'), a' the data's next action and w its
    batch weight: no action is ever rated that the data do not have. Q_tot = sum_i k_i(s) Q_i + b(s). Actors: -E[N k_i
    w_i log pi_i(a_i)], w_i the batch weight of A_i = Q_i(a_i) - sum_u pi_i(u) Q_i(u), both over all real rows of the
    batch. Rows whose next action is not in the sample do not train the critic.
    """

    settings: DiscreteMAICQSettings
    mixer: StateWeighted
    average_mixer: StateWeighted

    def __init__(self, spec: DatasetSpec, settings: DiscreteMAICQSettings) -> None:
        super().__init__(spec, settings)
        self.actor = settings.recurrent(spec, condition_dim=spec.observation_dim)
        self.average_actor = ema_copy(self.actor)

    def with_penalty(
        self, losses: dict[str, Tensor], sequences: Sequences, values: Values, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Adds the actors' loss to the losses; see the class and the base class."""
        actor = self.actor_loss(sequences, values)
        return {**losses, "loss": losses["loss"] + actor, "loss/actor": actor}

    def actor_loss(self, sequences: Sequences, values: Values) -> Tensor:
        """See the class; the critics get no gradient from it."""
        batch, allowed = sequences.batch, sequences.allowed[:, :, :-1]
        logits, _ = self.actor(sequences.observations[:, :, :-1])
        with torch.no_grad():
            rated = values.average[:, :, :-1]
            # If nothing is legal (after an episode's end), everything is allowed: such rows have no weight.
            possible = allowed | ~allowed.any(-1, keepdim=True)
            policy = logits.float().masked_fill(~possible, -torch.inf).softmax(-1)
            advantage = chosen(rated, batch.actions) - (policy * rated).sum(-1)
            share = self.spec.n_agents * self.average_mixer.weights(sequences.state[:, :-1].flatten(0, 1))
            share = share.reshape(advantage.shape[0], -1, advantage.shape[1]).transpose(1, 2)
            weight = share * _over_rows(advantage, batch.transition_mask, self.settings.actor_temperature)
        return -weighted_mean(log_probability(logits.float(), batch.actions, allowed), weight)

    def taught(self, sequences: Sequences) -> Tensor:
        """Rows that end their episode, or whose next action is in the sample."""
        return sequences.real & (sequences.batch.terminated[..., None] | _has_next(sequences))

    def following_value(self, sequences: Sequences, values: Values) -> Tensor:
        """The weighted value of the data's next actions; see the base class."""
        following = functional.pad(sequences.batch.actions[:, :, 1:], (0, 1))
        mixed = sequences.following().mix(self.average_mixer, chosen(values.average[:, :, 1:], following))
        counts = sequences.real & _has_next(sequences) & ~sequences.batch.terminated[..., None]
        weights = batch_weights(mixed.flatten()[:, None], counts.flatten()[:, None], self.settings.critic_temperature)
        return mixed * weights.reshape(mixed.shape)

    def policy(self) -> ChoosingActor:
        """Agents that take the legal choice that is likeliest under their averaged actors."""
        return self.players(ChoosingActor, self.average_actor)

    def learned(self) -> list[Learned]:
        """The values with their mixer, and the actors."""
        return [*super().learned(), Learned("actor", self.actor, self.average_actor)]


def _has_next(sequences: Sequences) -> Tensor:
    """`[B, T, 1]` bool: the following row has an action."""
    return functional.pad(sequences.real[:, 1:], (0, 0, 0, 1))


def _over_rows(values: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Batch weights `[B, N, T]` over the rows of each agent."""
    by_agent, counted = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (values, counts))
    weights = batch_weights(by_agent, counted, temperature)
    return weights.reshape(values.shape[0], -1, values.shape[1]).transpose(1, 2)
