"""Behaviour cloning: each agent does what the data's agent did."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from dof_lightning.actors.direct import ChoosingActor, DirectActor
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.losses import cross_entropy, squared_error
from dof_lightning.algorithms.parts.sequences import allowed_choices
from dof_lightning.algorithms.parts.settings import check_local, check_ranges
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.normalization import build_normalizer
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec


class BC(Algorithm):
    """Loss: E ||tanh mu_i(o_i) - a_i||^2 for continuous actions, -E log pi_i(a_i | o_i,0..t) for discrete ones.

    Discrete actors have a memory and choose among legal actions (OG-MARL, Formanek et al., 2023).

    Args:
        spec: the dataset's spec.
        seed: the run's seed.
        actor: of continuous actions, called with the spec and `condition_dim`.
        recurrent: of discrete actions, called with the spec and `condition_dim`.
        sequence_length: T, rows of a sample that a memory is trained over; continuous actors see one row.
        observation_normalizer: `identity`, `limits`, `gaussian` or `cdf`.
        learning_rate: of Adam.
        gradient_clip: largest gradient norm, None for no clipping.
        ema_decay: of the averaged networks that act.
        execution: `decentralized`, there is no other.

    Raises:
        UserError: a value is out of range.
    """

    action_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        seed: int,
        actor: Callable[..., AgentwiseActor],
        recurrent: Callable[..., RecurrentNetwork],
        sequence_length: int,
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
            learning_rate=learning_rate,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
        )
        self.chooses = spec.action_kind == "discrete"
        self.window = Window(history=0, horizon=sequence_length if self.chooses else 1)
        self.register_buffer("action_mask", spec.environment.action_mask(), persistent=False)
        self.normalizer = build_normalizer(observation_normalizer, spec.statistics.observations)
        network = recurrent if self.chooses else actor
        self.network = network(spec, condition_dim=spec.observation_dim)
        self.average_network = ema_copy(self.network)
        self.learning_rate = learning_rate
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`; see the class and `Algorithm.losses`."""
        return {"loss": self._loss(self.network, batch)}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The same loss of the averages."""
        return {"heldout/cloning": self._loss(self.average_network, batch)}

    def policy(self) -> DecentralizedPolicy:
        """Agents with the averaged networks."""
        network = whole(self.average_network)
        if self.chooses:
            return ChoosingActor(cast(RecurrentNetwork, network), self.normalizer, self.action_mask).eval()
        return DirectActor(cast(AgentwiseActor, network), self.normalizer, self.action_mask).eval()

    def parameter_groups(self) -> list[ParameterGroup]:
        """The actors."""
        return [ParameterGroup("actor", (self.network,), self.learning_rate, self.gradient_clip)]

    def after_step(self) -> None:
        """Moves the average."""
        ema_update(self.average_network, self.network, self.ema_decay)

    def _loss(self, network: torch.nn.Module, batch: EpisodeBatch) -> Tensor:
        weight = batch.transition_mask.float()
        observations = self.normalizer.normalize(batch.observations[:, :, :-1])
        if not self.chooses:
            prediction = torch.tanh(network(observations[:, :, 0]))
            return squared_error(prediction, batch.actions[:, :, 0], self.action_mask, weight[:, :, 0])
        logits, _ = network(observations)
        return cross_entropy(logits, batch.actions, allowed_choices(batch, self.action_mask)[:, :, :-1], weight)
