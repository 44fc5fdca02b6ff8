"""The same mixers without diffusion: values that networks say directly, as VDN and QMIX have them."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from dof_lightning.actors.value import DirectValueActor
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.team_value import TeamValue, check_settings, current_row
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.value import AgentwiseValue
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec


class DirectValue(Algorithm):
    """Loss: L = (y - h(q_1..q_N))^2, what `DoFValue` regresses, and the q_i are the agents' values themselves.

    h = sum is VDN's value model (Sunehag et al., 2018), h = monotone QMIX's (Rashid et al., 2018), fitted to the
    team's return instead of a TD target: in a one-shot game the two are the same.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        values: q_i, called with the spec and `condition_dim`.
        value_mixer: h, called with the spec and `state_dim`.
        candidates: M, uniform draws among which an agent takes the best where actions are continuous.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        value_learning_rate: of q_i and h.
        ema_decay: of both.
        execution: `decentralized`, there is no other.

    Raises:
        UserError: a value is out of range.
    """

    window = Window(history=0, horizon=1)
    action_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        values: Callable[..., AgentwiseValue],
        value_mixer: Callable[..., ValueMixer],
        candidates: int,
        observation_normalizer: str,
        value_learning_rate: float,
        ema_decay: float,
        execution: str = "decentralized",
    ) -> None:
        check_settings(execution, candidates, ema_decay, value_learning_rate=value_learning_rate)
        super().__init__(spec, seed)
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        self.value = TeamValue(spec, values, value_mixer)
        self.average_value = ema_copy(self.value)
        self.candidates = candidates
        self.value_learning_rate = value_learning_rate
        self.ema_decay = ema_decay

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`; see the class and `Algorithm.losses`."""
        return {"loss": self._loss(self.value, batch)}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The squared error of the averages."""
        return {"heldout/value": self._loss(self.average_value, batch)}

    def policy(self) -> DirectValueActor:
        """Agents that take the choice whose q_i is largest."""
        network = cast(AgentwiseValue, whole(self.average_value.network))
        kind = self.spec.action_kind
        return DirectValueActor(network, self.normalizer, self.action_mask, kind, self.candidates).eval()

    def mix(self, values: Tensor, observations: Tensor) -> Tensor:
        """The team's return `[B, 1]` that the averaged h makes of values `[B, N, 1]` at observations `[B, N, O]`."""
        now = Situation(self.normalizer.normalize(observations))
        return self.average_value.team_return(self.average_value.mix(values, now))

    def parameter_groups(self) -> list[ParameterGroup]:
        """The values with h."""
        return [ParameterGroup("value", (self.value,), self.value_learning_rate, None)]

    def after_step(self) -> None:
        """Moves the average."""
        ema_update(self.average_value, self.value, self.ema_decay)

    def _loss(self, value: TeamValue, batch: EpisodeBatch) -> Tensor:
        now, actions = current_row(batch, self.normalizer, self.spec, self.action_mask)
        return value.loss(value.mix(value(now, actions), now), batch)
