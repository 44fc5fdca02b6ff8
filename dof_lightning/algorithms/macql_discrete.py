"""MACQL on discrete actions: QMIX whose team value is pushed down for joint actions that the data do not have."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.algorithms.parts.sequences import Sequences, chosen
from dof_lightning.algorithms.qmix import QMIX, QMIXSettings, Values
from dof_lightning.settings import Count, NonNegative
from dof_lightning.spec import ActionKind


@dataclass(frozen=True, kw_only=True)
class DiscreteMACQLSettings(QMIXSettings):
    """Settings of `DiscreteMACQL`.

    Attributes:
        alpha: weight of the gap, for rewards in their original unit.
        samples: number of random legal joint actions per row.
    """

    alpha: NonNegative = 3.0
    samples: Count = 20

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; without a weight nothing is pushed down."""
        return super().idle(action_kind) | ({"samples": "algorithm.alpha=0"} if self.alpha == 0 else {})


class DiscreteMACQL(QMIX, made_by=DiscreteMACQLSettings):
    """QMIX's loss + alpha (log sum_u exp Q_tot(s, u) - Q_tot(s, a)) over random legal joint actions u and the data's a.

    Conservative Q-learning (Kumar et al., 2020, eq. 4) of the team's value, as in OG-MARL (Formanek et al., 2023).
    Rewards are scaled, but alpha and the gap are specified in the original unit, so that published values mean the same
    for rewards of the published size.
    """

    settings: DiscreteMACQLSettings

    def with_penalty(
        self, losses: dict[str, Tensor], sequences: Sequences, values: Values, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        penalty = self.settings.alpha * self.reward_scale * self.gap(sequences, values, generator)
        return {**losses, "loss": losses["loss"] + penalty, "loss/penalty": penalty}

    def gap(self, sequences: Sequences, values: Values, generator: torch.Generator) -> Tensor:
        """The mean (`Sequences.mean`) of log sum_u exp Q_tot(s, u) - Q_tot(s, a), at least 0.

        The exponents are in the rewards' original unit, as in the paper; the gap is in the critics' unit (times
        `reward_scale`).
        """
        own, allowed = values.online[:, :, :-1], sequences.allowed[:, :, :-1]
        samples = self.settings.samples
        shape = (samples, *allowed.shape)
        drawn = torch.rand(shape, generator=generator, device=own.device).masked_fill(~allowed, -1.0).argmax(-1)
        of_drawn = chosen(own.expand(samples, *own.shape), drawn)
        anywhere = sequences.now().mix(self.mixer, of_drawn)
        soft = self.reward_scale * (torch.cat([anywhere, values.mixed[None]]).float() / self.reward_scale).logsumexp(0)
        return sequences.mean(soft - values.mixed)
