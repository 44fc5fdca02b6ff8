"""The mixers of `DoFValue` without diffusion: networks output the values directly, as in VDN and QMIX."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dof_lightning.actors.value import DirectValueActor
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.team_value import TeamValue, ValueSettings, current_row
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.value import AgentwiseValue
from dof_lightning.normalization import build_normalizer
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class DirectValueSettings(ValueSettings):
    """Settings of `DirectValue`."""


class DirectValue(Algorithm, made_by=DirectValueSettings):
    """Loss: L = (y - h(q_1..q_N))^2, as in `DoFValue`'s regression; the q_i are the agents' values themselves.

    h = sum is VDN's value model (Sunehag et al., 2018), h = monotone QMIX's (Rashid et al., 2018), fitted to the
    team's return instead of a TD target: in a one-shot game the two are the same.

    Raises:
        UserError: all returns of the dataset are equal.
    """

    window = Window(history=0, horizon=1)
    settings: DirectValueSettings
    action_mask: Tensor

    def __init__(self, spec: DatasetSpec, settings: DirectValueSettings) -> None:
        super().__init__(spec, settings)
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(settings.observation_normalizer, spec.statistics.observations)
        self.value = TeamValue(spec, settings.values, settings.value_mixer)
        self.average_value = ema_copy(self.value)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`; see the class and `Algorithm.losses`."""
        return {"loss": self._loss(self.value, batch)}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The squared error of the averages."""
        return {"heldout/value": self._loss(self.average_value, batch)}

    def policy(self) -> DirectValueActor:
        """Agents that take the choice whose q_i is largest."""
        network = cast(AgentwiseValue, whole(self.average_value.network))
        actor = DirectValueActor(
            network,
            normalizer=self.normalizer,
            action_mask=self.action_mask,
            action_kind=self.spec.action_kind,
            candidates=self.settings.candidates,
        )
        return actor.eval()

    def mix(self, values: Tensor, observations: Tensor) -> Tensor:
        """The team's return `[B, 1]` that the averaged h makes of values `[B, N, 1]` at observations `[B, N, O]`."""
        return self.average_value.team_return(values, Situation(self.normalizer.normalize(observations)))

    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameter group of the values and h."""
        return [ParameterGroup("value", (self.value,), self.settings.value_learning_rate, None)]

    def after_step(self) -> None:
        """Updates the moving average."""
        ema_update(self.average_value, self.value, self.settings.ema_decay)

    def _loss(self, value: TeamValue, batch: EpisodeBatch) -> Tensor:
        now, actions = current_row(batch, self.normalizer, self.spec, self.action_mask)
        return value.loss(value.mix(value(now, actions), now), batch)
