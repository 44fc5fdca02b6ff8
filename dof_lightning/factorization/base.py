"""The contracts of noise and data factorisations, and of value mixers."""

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor, nn

from dof_lightning.sharding import FsdpRole


class Factorization(nn.Module, ABC):
    """A shape-preserving map between per-agent parts and the joint quantity: f (noise) or h (data).

    `join` is what training sees: joint = f(parts). `local` is what decentralised execution applies: agent i's result
    is a function of agent i's part only, so its Jacobian is block-diagonal.

    Subclasses define `join`, `split`, `local` and the flags without a default. If they hold tensors and agents run them
    alone, they also define `select_agent`. `contract.py` tests all of this before training.

    Shapes:
        parts, joint: `[B, N, ...]`

    Attributes:
        local_execution: agent i can run its own part of it from its own data. If False, `local` and `select_agent`
            raise TypeError, and acting needs `algorithm.execution=centralized`.
        satisfies_igd: the joint law it trains is the product of the agents' laws (Li et al., 2025,
            Definition 2, eq. 3).
        invertible: `split` undoes `join` in closed form. Then f joins states, true noises and predictions alike (eqs.
            9-11, B.26-B.28 there). If False, `split` raises TypeError, and f is a head on the predictions: states and
            true noises stay side by side (`as_state` and `as_parts` are the identity).
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"  # only a few numbers, which several methods read
    local_execution: bool
    satisfies_igd: bool
    invertible: bool = True

    @abstractmethod
    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """Joins the agents' parts into the joint quantity.

        Args:
            parts: `[B, N, ...]`.
            condition: `[B, N, C]`, all agents' conditioning, which an h and an f without an inverse may read; None to
                an f with one, and where the contract is checked.
        """

    @abstractmethod
    def split(self, joint: Tensor) -> Tensor:
        """Inverse of `join`; raises TypeError if there is none (`invertible`)."""

    @abstractmethod
    def local(self, parts: Tensor) -> Tensor:
        """Maps agent i's own part at execution; raises TypeError if agents cannot do this alone (`local_execution`)."""

    def as_state(self, parts: Tensor) -> Tensor:
        """Joint data or true noises that diffuse, from the agents' own: joined by f if f has an inverse."""
        return self.join(parts) if self.invertible else parts

    def as_parts(self, state: Tensor) -> Tensor:
        """Inverse of `as_state`."""
        return self.split(state) if self.invertible else state

    def metrics(self) -> dict[str, Tensor]:
        """Scalars for TensorBoard by tag (e.g. the learned weight of each agent); empty if there are none."""
        return {}

    def select_agent(self, agent: int) -> Self:
        """A copy for one agent alone (N = 1), used for its export; its `local` maps that agent's part as ours does.

        Without parameters and buffers, nothing in it belongs to any agent; with some, a subclass selects the agent's
        own.

        Raises:
            TypeError: no agent can run it alone (`local_execution`), or the subclass does not define the selection.
        """
        name = type(self).__name__
        if not self.local_execution:
            raise TypeError(f"{name} cannot run at one agent alone (local_execution is False)")
        if any(True for _ in self.parameters()) or any(True for _ in self.buffers()):
            raise TypeError(
                f"{name} holds tensors, so it has to define select_agent(agent): a copy with those of one agent only"
            )
        return copy.deepcopy(self)


class ValueMixer(nn.Module, ABC):
    """h for values: maps the agents' own values Q_i to the team's Q_tot.

    It is built from the dataset's spec and `state_dim` S. If S is 0, there is nothing to condition on, and weights that
    would be made from the state are learned constants instead.

    Shapes:
        values `[B, N, 1]`, state `[B, S]`, result `[B, 1]`

    Attributes:
        satisfies_igm: Q_tot is monotone in each Q_i, so ranking by Q_i ranks by Q_tot (IGM).
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"  # only a few numbers
    satisfies_igm: bool

    @abstractmethod
    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mixes values; in training, the mixture may depend on the state."""

    def each(self, values: Tensor, state: Tensor) -> Tensor:
        """`[M, B, 1]`: mixes the values `[M, B, N, 1]` of several joint actions in each state `[B, S]`."""
        several, batch = values.shape[:2]
        mixed: Tensor = self(values.flatten(0, 1), state.repeat(several, 1))
        return mixed.reshape(several, batch, 1)
