"""MABCQ: QMIX that considers only next actions which the data's agents would be likely to take."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dof_lightning.actors.direct import LikelyActor, likely
from dof_lightning.algorithms.parts.baseline import Learned
from dof_lightning.algorithms.parts.losses import cross_entropy
from dof_lightning.algorithms.parts.sequences import Sequences
from dof_lightning.algorithms.qmix import QMIX, QMIXSettings, Values
from dof_lightning.networks.ema import ema_copy
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.settings import Fraction
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class MABCQSettings(QMIXSettings):
    """Settings of `MABCQ`, whose pi_i are `recurrent` networks as its Q_i are.

    Attributes:
        threshold: smallest probability of an allowed choice, relative to that of the likeliest.
    """

    threshold: Fraction = 0.4


class MABCQ(QMIX, made_by=MABCQSettings):
    """QMIX's loss - E log pi_i(a_i), with argmax over the choices of pi_i(u) / max pi_i >= threshold only.

    Batch-constrained Q-learning on discrete actions (Fujimoto et al., 2019a, eq. 11) per agent, as in OG-MARL (Formanek
    et al., 2023); the constraint holds both in TD targets and when agents act.
    """

    settings: MABCQSettings

    def __init__(self, spec: DatasetSpec, settings: MABCQSettings) -> None:
        super().__init__(spec, settings)
        self.cloning = settings.recurrent(spec, condition_dim=spec.observation_dim)
        self.average_cloning = ema_copy(self.cloning)

    def with_penalty(
        self, losses: dict[str, Tensor], sequences: Sequences, values: Values, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """See the class and the base class."""
        logits, _ = self.cloning(sequences.observations[:, :, :-1])
        batch = sequences.batch
        weight = batch.transition_mask.float()
        cloning = cross_entropy(logits, batch.actions, sequences.allowed[:, :, :-1], weight)
        return {**losses, "loss": losses["loss"] + cloning, "loss/cloning": cloning}

    @torch.no_grad()
    def choices(self, sequences: Sequences) -> Tensor:
        """See the base class."""
        logits, _ = self.average_cloning(sequences.observations)
        return likely(logits, sequences.allowed, self.settings.threshold)

    def policy(self) -> LikelyActor:
        """Agents that take the likely choice with the largest averaged Q_i."""
        values, cloning = (cast(RecurrentNetwork, whole(net)) for net in (self.average_values, self.average_cloning))
        return LikelyActor(values, cloning, self.settings.threshold, self.normalizer, self.action_mask).eval()

    def learned(self) -> list[Learned]:
        """The values with their mixer, and the cloning networks."""
        return [*super().learned(), Learned("cloning", self.cloning, self.average_cloning)]
