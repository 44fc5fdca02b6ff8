"""MADT: a causal transformer continues each agent's sequence of returns, observations and actions."""

from collections.abc import Callable
from typing import ClassVar, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from dof_lightning.actors.sequence import SequenceActor, SequenceReturnUpdate
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.losses import cross_entropy
from dof_lightning.algorithms.parts.sequences import allowed_choices
from dof_lightning.algorithms.parts.settings import check_local, check_ranges
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.errors import UserError
from dof_lightning.networks.causal_transformer import CausalTransformer
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.normalization import build_normalizer
from dof_lightning.seeding import global_randomness_of
from dof_lightning.sharding import whole
from dof_lightning.spec import ActionKind, DatasetSpec


class MADT(Algorithm):
    """Loss: -E log pi(a_t | R_0, o_0, a_0, ..., R_t, o_t) of every row (Meng et al., 2021; Chen et al., 2021).

    pi is the softmax over legal choices, R_t the agent's return from row t on.

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        network: called with the spec, `condition_dim` and `rows`.
        sequence_length: T, rows that are read together.
        returns_scale: returns are divided by it; None means the largest |R_0| of the dataset.
        target_return: asked for at execution, in units of `returns_scale`; None means `target_quantile`'s.
        target_quantile: of the dataset's R_0.
        return_update: `none` or `reward`, see `SequenceActor`.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of AdamW.
        weight_decay: of the same, on everything.
        gradient_clip: largest gradient norm, None for no clipping.
        ema_decay: of the averaged network that acts.
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
        network: Callable[..., CausalTransformer],
        sequence_length: int,
        returns_scale: float | None,
        target_return: float | None,
        target_quantile: float,
        return_update: SequenceReturnUpdate,
        observation_normalizer: str,
        learning_rate: float,
        weight_decay: float,
        gradient_clip: float | None,
        ema_decay: float,
        execution: str = "decentralized",
    ) -> None:
        super().__init__(spec, seed)
        check_local(execution)
        check_ranges(
            sequence_length=sequence_length,
            returns_scale=returns_scale,
            target_quantile=target_quantile,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
        )
        if return_update not in get_args(SequenceReturnUpdate):
            raise UserError(f"algorithm.return_update={return_update} is unknown; choose none or reward")
        self.window = Window(history=0, horizon=sequence_length)
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        self.network = network(spec, condition_dim=spec.observation_dim, rows=sequence_length)
        self.average_network = ema_copy(self.network)
        knots = spec.statistics.discounted_return_knots
        self.returns_scale = float(max(np.abs(knots).max(), 1e-6)) if returns_scale is None else returns_scale
        asked = float(np.quantile(knots, target_quantile)) / self.returns_scale
        self.target_return = asked if target_return is None else target_return
        self.return_update: SequenceReturnUpdate = return_update
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`; see the class and `Algorithm.losses`. Dropout draws from the generator, as all noise does."""
        with global_randomness_of(generator):
            return {"loss": self._loss(self.network, batch)}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The same loss of the average."""
        return {"heldout/cloning": self._loss(self.average_network, batch)}

    def policy(self) -> SequenceActor:
        """Agents with the averaged network."""
        network = cast(CausalTransformer, whole(self.average_network))
        told = (self.target_return, self.return_update, self.returns_scale, self.spec.discount)
        return SequenceActor(network, self.normalizer, self.action_mask, *told).eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """The network."""
        return [ParameterGroup("actor", (self.network,), self.learning_rate, self.gradient_clip, self.weight_decay)]

    def after_step(self) -> None:
        """Moves the average."""
        ema_update(self.average_network, self.network, self.ema_decay)

    def _loss(self, network: nn.Module, batch: EpisodeBatch) -> Tensor:
        seen = self.normalizer.normalize(batch.observations[:, :, :-1])
        logits = network(batch.return_to_go / self.returns_scale, seen, batch.actions)
        allowed = allowed_choices(batch, self.action_mask)[:, :, :-1]
        return cross_entropy(logits, batch.actions, allowed, batch.transition_mask.float())
