"""MADT: a causal transformer continues each agent's sequence of returns, observations and actions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from dof_lightning.actors.sequence import SequenceActor, SequenceReturnUpdate
from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.parts.baseline import Baseline, BaselineSettings, Learned
from dof_lightning.algorithms.parts.losses import cross_entropy
from dof_lightning.algorithms.parts.reward_units import remarks_on_returns, scale_of_returns
from dof_lightning.algorithms.parts.sequences import allowed_choices
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.networks.causal_transformer import CausalTransformer
from dof_lightning.networks.ema import ema_copy
from dof_lightning.seeding import global_randomness_of
from dof_lightning.settings import Count, Fraction, NonNegative, Positive
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec


@dataclass(frozen=True, kw_only=True)
class MADTSettings(BaselineSettings):
    """Settings of `MADT`.

    Attributes:
        network: called with the spec, `condition_dim` and `rows`.
        sequence_length: T, number of rows that are read together.
        returns_scale: returns are divided by it; None means the largest |R_0| of the dataset, 1 where that is 0.
        target_return: the return requested at execution, in units of `returns_scale`; None means `target_quantile`'s.
        target_quantile: quantile of the dataset's R_0 that is the target.
        return_update: `none` or `reward`, see `SequenceActor`.
        weight_decay: AdamW's weight decay, applied to all weights.
    """

    network: Callable[..., CausalTransformer] = CausalTransformer
    sequence_length: Count = 20
    returns_scale: Positive | None = None
    target_return: float | None = None
    target_quantile: Fraction = 0.95
    return_update: SequenceReturnUpdate = "none"
    learning_rate: Positive = 5e-4
    weight_decay: NonNegative = 0.1
    gradient_clip: Positive | None = 0.5

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class."""
        given = self.target_return
        asked = {} if given is None else {"target_quantile": f"algorithm.target_return={given}"}
        return super().idle(action_kind) | asked


class MADT(Baseline, made_by=MADTSettings):
    """Loss: -E log pi(a_t | R_0, o_0, a_0, ..., R_t, o_t) of every row (Meng et al., 2021; Chen et al., 2021).

    pi is the softmax over legal choices, R_t the agent's return from row t on.

    Raises:
        UserError: actions are continuous.
    """

    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("discrete",)
    settings: MADTSettings

    def __init__(self, spec: DatasetSpec, settings: MADTSettings) -> None:
        super().__init__(spec, settings)
        rows = settings.sequence_length
        self.window = Window(history=0, horizon=rows)
        self.network = settings.network(spec, condition_dim=spec.observation_dim, rows=rows)
        self.average_network = ema_copy(self.network)
        knots = spec.statistics.discounted_return_knots
        self.returns_scale = scale_of_returns(settings.returns_scale, spec)
        asked = float(np.quantile(knots, settings.target_quantile)) / self.returns_scale
        self.target_return = asked if settings.target_return is None else settings.target_return

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`; see the class and `Algorithm.losses`. Dropout draws from the generator, as all noise does."""
        with global_randomness_of(generator):
            return {"loss": self._loss(self.network, batch)}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The same loss, of the averaged network."""
        return {"heldout/cloning": self._loss(self.average_network, batch)}

    def policy(self) -> SequenceActor:
        """Agents with the averaged network."""
        actor = SequenceActor(
            cast(CausalTransformer, whole(self.average_network)),
            self.normalizer,
            self.action_mask,
            target_return=self.target_return,
            return_update=self.settings.return_update,
            returns_scale=self.returns_scale,
            discount=self.spec.discount,
        )
        return actor.eval()

    def remarks(self) -> list[str]:
        """A note if the unit of the returns cannot be determined."""
        return remarks_on_returns(self.settings.returns_scale, self.spec)

    def learned(self) -> list[Learned]:
        """The network."""
        return [Learned("actor", self.network, self.average_network)]

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group: the network, with weight decay."""
        return [replace(group, weight_decay=self.settings.weight_decay) for group in super().parameter_groups()]

    def _loss(self, network: nn.Module, batch: EpisodeBatch) -> Tensor:
        seen = self.normalizer.normalize(batch.observations[:, :, :-1])
        logits = network(batch.return_to_go / self.returns_scale, seen, batch.actions)
        allowed = allowed_choices(batch, self.action_mask)[:, :, :-1]
        return cross_entropy(logits, batch.actions, allowed, batch.transition_mask.float())
