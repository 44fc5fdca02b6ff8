"""Behaviour cloning: each agent does what the data's agent did."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dof_lightning.actors.direct import ChoosingActor, DirectActor
from dof_lightning.algorithms.parts.baseline import Baseline, BaselineSettings, Learned
from dof_lightning.algorithms.parts.losses import cross_entropy, squared_error
from dof_lightning.algorithms.parts.sequences import allowed_choices
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.networks.actor import AgentwiseActor
from dof_lightning.networks.ema import ema_copy
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.settings import Count, Positive
from dof_lightning.spec import ActionKind, DatasetSpec


@dataclass(frozen=True, kw_only=True)
class BCSettings(BaselineSettings):
    """Settings of `BC`.

    Attributes:
        actor: network for continuous actions, called with the spec and `condition_dim`.
        recurrent: network for discrete actions, called with the spec and `condition_dim`.
        sequence_length: T, number of rows per sample over which a memory is trained; continuous actors see one row.
    """

    actor: Callable[..., AgentwiseActor] = AgentwiseActor
    recurrent: Callable[..., RecurrentNetwork] = RecurrentNetwork
    sequence_length: Count = 20
    learning_rate: Positive = 1e-3

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; the memory is for discrete actions, the actor for continuous ones."""
        unread = {"continuous": ("recurrent", "sequence_length"), "discrete": ("actor",)}
        found = {} if action_kind is None else dict.fromkeys(unread[action_kind], f"actions are {action_kind}")
        return super().idle(action_kind) | found


class BC(Baseline, made_by=BCSettings):
    """Loss: E ||tanh mu_i(o_i) - a_i||^2 for continuous actions, -E log pi_i(a_i | o_i,0..t) for discrete ones.

    Discrete actors have a memory and choose among legal actions (OG-MARL, Formanek et al., 2023).
    """

    settings: BCSettings

    def __init__(self, spec: DatasetSpec, settings: BCSettings) -> None:
        super().__init__(spec, settings)
        self.chooses = spec.action_kind == "discrete"
        self.window = Window(history=0, horizon=settings.sequence_length if self.chooses else 1)
        network = settings.recurrent if self.chooses else settings.actor
        self.network = network(spec, condition_dim=spec.observation_dim)
        self.average_network = ema_copy(self.network)

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`; see the class and `Algorithm.losses`."""
        return {"loss": self._loss(self.network, batch)}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The same loss, of the averaged networks."""
        return {"heldout/cloning": self._loss(self.average_network, batch)}

    def policy(self) -> DecentralizedPolicy:
        """Agents with the averaged networks."""
        if self.chooses:
            return self.players(ChoosingActor, self.average_network)
        return self.players(DirectActor, self.average_network)

    def learned(self) -> list[Learned]:
        """The actors."""
        return [Learned("actor", self.network, self.average_network)]

    def _loss(self, network: torch.nn.Module, batch: EpisodeBatch) -> Tensor:
        weight = batch.transition_mask.float()
        observations = self.normalizer.normalize(batch.observations[:, :, :-1])
        if not self.chooses:
            prediction = torch.tanh(network(observations[:, :, 0]))
            return squared_error(prediction, batch.actions[:, :, 0], self.action_mask, weight[:, :, 0])
        logits, _ = network(observations)
        return cross_entropy(logits, batch.actions, allowed_choices(batch, self.action_mask)[:, :, :-1], weight)
