"""QMIX on offline data: the agents' own values, mixed monotonically, learned by double Q-learning."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dof_lightning.actors.direct import ChoosingActor
from dof_lightning.algorithms.parts.baseline import Baseline, BaselineSettings, Learned
from dof_lightning.algorithms.parts.reward_units import remarks_on_rewards, scale_of_rewards
from dof_lightning.algorithms.parts.sequences import Sequences, chosen
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.factorization.value import Monotone
from dof_lightning.networks.ema import ema_copy
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.settings import Count, Fraction, Positive
from dof_lightning.spec import ActionKind, DatasetSpec

MONOTONE = partial(Monotone, embed=32, hyper_hidden=64)


@dataclass(frozen=True, kw_only=True)
class QMIXSettings(BaselineSettings):
    """Settings of `QMIX`.

    Attributes:
        recurrent: network of Q_i given everything that agent i has seen, called with the spec and `condition_dim`.
        value_mixer: mixer from Q_i to Q_tot, called with the spec and `state_dim`.
        sequence_length: T, number of rows per sample.
        discount: gamma of the TD targets.
        reward_scale: rewards are multiplied by it; None means 1 / std of the dataset's episode returns, 1 where
            they are all the same.
    """

    recurrent: Callable[..., RecurrentNetwork] = RecurrentNetwork
    value_mixer: Callable[..., ValueMixer] = MONOTONE
    sequence_length: Count = 20
    discount: Fraction = 0.99
    reward_scale: Positive | None = None
    gradient_clip: Positive | None = 10.0


@dataclass(frozen=True)
class Values:
    """The networks' values of a batch of sequences.

    Attributes:
        online: `[B, N, T+1, A]`.
        average: `[B, N, T+1, A]`, without gradient.
        mixed: `[B, T, 1]`, the online Q_tot of the data's actions.
    """

    online: Tensor
    average: Tensor
    mixed: Tensor


class QMIX(Baseline, made_by=QMIXSettings):
    """Loss: 1/2 (y - Q_tot(s, a))^2, y = r + gamma (1 - d) Q_tot'(s', argmax_a' Q_i) (Rashid et al., 2018; double Q).

    As in OG-MARL (Formanek et al., 2023), nothing keeps it near the data: offline it is the example of extrapolation
    error. Differences: targets come from a moving average that follows at every update instead of from a copy every 200
    updates, and the same average acts. The team's reward is the mean over agents.

    Raises:
        UserError: actions are continuous.
    """

    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("discrete",)
    settings: QMIXSettings

    def __init__(self, spec: DatasetSpec, settings: QMIXSettings) -> None:
        super().__init__(spec, settings)
        self.window = Window(history=0, horizon=settings.sequence_length)
        self.values = settings.recurrent(spec, condition_dim=spec.observation_dim)
        self.mixer = settings.value_mixer(spec, state_dim=spec.state_dim or spec.n_agents * spec.observation_dim)
        self.average_values = ema_copy(self.values)
        self.average_mixer = ema_copy(self.mixer)
        self.reward_scale = scale_of_rewards(settings.reward_scale, spec)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its parts; see the class and `Algorithm.losses`."""
        sequences = Sequences.of(batch, self.normalizer, self.action_mask)
        online, _ = self.values(sequences.observations)
        average = self._averaged(sequences)
        mixed = sequences.now().mix(self.mixer, chosen(online[:, :, :-1], batch.actions))
        values = Values(online, average, mixed)
        target = self._target(sequences, values)
        critic = 0.5 * sequences.mean((mixed - target).square() * self.taught(sequences))
        losses = {
            "loss/critic": critic,
            "q/value": sequences.mean_of_real(mixed.detach()) / self.reward_scale,
            "q/target": sequences.mean_of_real(target) / self.reward_scale,
        }
        return self.with_penalty({"loss": critic, **losses}, sequences, values, generator)

    def with_penalty(
        self, losses: dict[str, Tensor], sequences: Sequences, values: Values, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses, to which subclasses add their own."""
        return losses

    def taught(self, sequences: Sequences) -> Tensor:
        """`[B, T, 1]` bool: the rows for which there is a TD target."""
        return sequences.real

    def choices(self, sequences: Sequences) -> Tensor:
        """`[B, N, T+1, A]` bool: the choices considered for the next actions of TD targets."""
        return sequences.allowed

    def following_value(self, sequences: Sequences, values: Values) -> Tensor:
        """`[B, T, 1]`, the value of the row after each row."""
        best = values.online.masked_fill(~self.choices(sequences), -torch.inf).argmax(-1)
        return sequences.following().mix(self.average_mixer, chosen(values.average, best)[:, :, 1:])

    @torch.no_grad()
    def _target(self, sequences: Sequences, values: Values) -> Tensor:
        """TD targets `[B, T, 1]`; the row after a time limit counts, the row after a real end does not."""
        with torch.autocast(self.device.type, enabled=False):
            following = self.following_value(sequences, values)
        rewards = self.reward_scale * sequences.batch.rewards.mean(1)[..., None]
        goes_on = (~sequences.batch.terminated)[..., None].to(rewards)
        return rewards + self.settings.discount * goes_on * following.to(rewards.dtype)

    @torch.no_grad()
    def _averaged(self, sequences: Sequences) -> Tensor:
        """The averaged values `[B, N, T+1, A]`, in full precision, which TD targets need."""
        with torch.autocast(self.device.type, enabled=False):
            average: Tensor = self.average_values(sequences.observations)[0]
        return average

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The squared TD error of the averages against themselves."""
        sequences = Sequences.of(batch, self.normalizer, self.action_mask)
        average = self._averaged(sequences)
        mixed = sequences.now().mix(self.average_mixer, chosen(average[:, :, :-1], batch.actions))
        target = self._target(sequences, Values(average, average, mixed))
        return {"heldout/value": 0.5 * sequences.mean((mixed - target).square() * self.taught(sequences))}

    def policy(self) -> DecentralizedPolicy:
        """Agents that take the legal choice with the largest averaged Q_i."""
        return self.players(ChoosingActor, self.average_values)

    def remarks(self) -> list[str]:
        """A note if the unit of the rewards cannot be determined."""
        return remarks_on_rewards(self.settings.reward_scale, self.spec)

    def learned(self) -> list[Learned]:
        """The values with their mixer."""
        return [
            Learned("critic", self.values, self.average_values),
            Learned("critic", self.mixer, self.average_mixer),
        ]
