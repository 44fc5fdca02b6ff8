"""MABCQ: QMIX that looks for next actions among those only which the data's agents would likely take."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from dof_lightning.actors.direct import LikelyActor, likely
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.parts.losses import cross_entropy
from dof_lightning.algorithms.parts.sequences import Sequences
from dof_lightning.algorithms.parts.settings import check_ranges
from dof_lightning.algorithms.qmix import QMIX, Values
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec


class MABCQ(QMIX):
    """QMIX's loss - E log pi_i(a_i), with argmax over the choices of pi_i(u) / max pi_i >= threshold only.

    Batch-constrained Q-learning on discrete actions (Fujimoto et al., 2019a, eq. 11), an agent each, as OG-MARL has it
    (Formanek et al., 2023); the constraint holds in TD targets and where agents act.

    Args:
        spec: the dataset's spec.
        recurrent: Q_i, and pi_i too, called with the spec and `condition_dim`.
        threshold: in [0, 1].
        settings: see `QMIX`.
    """

    def __init__(
        self, spec: DatasetSpec, *, recurrent: Callable[..., RecurrentNetwork], threshold: float, **settings: Any
    ) -> None:
        super().__init__(spec, recurrent=recurrent, **settings)
        check_ranges(threshold=threshold)
        self.threshold = threshold
        self.cloning = recurrent(spec, condition_dim=spec.observation_dim)
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
        return likely(logits, sequences.allowed, self.threshold)

    def policy(self) -> LikelyActor:
        """Agents that take the likely choice which their averaged Q_i says most for."""
        values, cloning = (cast(RecurrentNetwork, whole(net)) for net in (self.average_values, self.average_cloning))
        return LikelyActor(values, cloning, self.threshold, self.normalizer, self.action_mask).eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Values with their mixer, and the cloning networks."""
        cloning = ParameterGroup("cloning", (self.cloning,), self.learning_rate, self.gradient_clip)
        return [*super().parameter_groups(), cloning]

    def after_step(self) -> None:
        """Moves the averages."""
        super().after_step()
        ema_update(self.average_cloning, self.cloning, self.ema_decay)
