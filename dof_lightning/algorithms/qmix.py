"""QMIX on offline data: the agents' own values, mixed monotonically, learned by double Q-learning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from dof_lightning.actors.direct import ChoosingActor
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.sequences import Sequences, chosen
from dof_lightning.algorithms.parts.settings import check_local, check_ranges
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.normalization import build_normalizer
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec


@dataclass(frozen=True)
class Values:
    """What the networks say of a batch of sequences.

    Attributes:
        online: `[B, N, T+1, A]`.
        average: `[B, N, T+1, A]`, without gradient.
        mixed: `[B, T, 1]`, the online Q_tot of the data's actions.
    """

    online: Tensor
    average: Tensor
    mixed: Tensor


class QMIX(Algorithm):
    """Loss: 1/2 (y - Q_tot(s, a))^2, y = r + gamma (1 - d) Q_tot'(s', argmax_a' Q_i) (Rashid et al., 2018; double Q).

    As OG-MARL has it (Formanek et al., 2023; reference/baselines_and_games.md section 1), nothing keeps it near the
    data: offline it is the example of extrapolation error. Differences: targets are a moving average that follows at
    every update instead of a copy every 200, and the same average acts. The team's reward is the mean over agents.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        recurrent: Q_i of all that agent i has seen, called with the spec and `condition_dim`.
        value_mixer: from Q_i to Q_tot, called with the spec and `state_dim`.
        sequence_length: T, rows of a sample.
        discount: gamma.
        reward_scale: rewards are multiplied by it; None means 1 / std of the dataset's episode returns.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of Adam.
        gradient_clip: largest gradient norm, None for no clipping.
        ema_decay: of the averaged networks that make targets and act.
        execution: `decentralized`, there is no other.

    Raises:
        UserError: a value is out of range, or actions are continuous.
    """

    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("discrete",)
    action_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        recurrent: Callable[..., RecurrentNetwork],
        value_mixer: Callable[..., ValueMixer],
        sequence_length: int,
        discount: float,
        reward_scale: float | None,
        observation_normalizer: str,
        learning_rate: float,
        gradient_clip: float | None,
        ema_decay: float,
        execution: str = "decentralized",
    ) -> None:
        super().__init__(spec, seed)
        check_local(execution)
        check_ranges(
            sequence_length=sequence_length,
            discount=discount,
            reward_scale=reward_scale,
            learning_rate=learning_rate,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
        )
        self.window = Window(history=0, horizon=sequence_length)
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        self.values = recurrent(spec, condition_dim=spec.observation_dim)
        self.mixer = value_mixer(spec, state_dim=spec.state_dim or spec.n_agents * spec.observation_dim)
        self.average_values = ema_copy(self.values)
        self.average_mixer = ema_copy(self.mixer)
        self.discount = discount
        self.reward_scale = reward_scale if reward_scale is not None else 1.0 / max(spec.statistics.return_std, 1e-6)
        self.learning_rate = learning_rate
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay

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
        """The losses with what a subclass adds to them."""
        return losses

    def taught(self, sequences: Sequences) -> Tensor:
        """`[B, T, 1]` bool: the rows for which there is a TD target."""
        return sequences.real

    def choices(self, sequences: Sequences) -> Tensor:
        """`[B, N, T+1, A]` bool: among which the next actions of TD targets are looked for."""
        return sequences.allowed

    def following_value(self, sequences: Sequences, values: Values) -> Tensor:
        """`[B, T, 1]`, what the row after each is worth."""
        best = values.online.masked_fill(~self.choices(sequences), -torch.inf).argmax(-1)
        return sequences.following().mix(self.average_mixer, chosen(values.average, best)[:, :, 1:])

    @torch.no_grad()
    def _target(self, sequences: Sequences, values: Values) -> Tensor:
        """`[B, T, 1]`; the row after a time limit counts, that after an end does not."""
        with torch.autocast(self.device.type, enabled=False):
            following = self.following_value(sequences, values)
        rewards = self.reward_scale * sequences.batch.rewards.mean(1)[..., None]
        goes_on = (~sequences.batch.terminated)[..., None].to(rewards)
        return rewards + self.discount * goes_on * following.to(rewards.dtype)

    @torch.no_grad()
    def _averaged(self, sequences: Sequences) -> Tensor:
        """What the averaged values say `[B, N, T+1, A]`, in full precision as TD targets need it."""
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
        """Agents that take the legal choice which their averaged Q_i says most for."""
        network = cast(RecurrentNetwork, whole(self.average_values))
        return ChoosingActor(network, self.normalizer, self.action_mask).eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Values with their mixer."""
        return [ParameterGroup("critic", (self.values, self.mixer), self.learning_rate, self.gradient_clip)]

    def after_step(self) -> None:
        """Moves the averages."""
        ema_update(self.average_values, self.values, self.ema_decay)
        ema_update(self.average_mixer, self.mixer, self.ema_decay)
