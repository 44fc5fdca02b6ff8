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

    Subclasses define `join`, `split`, `local`, the flags without a default and, where they hold tensors and agents run
    them alone, `select_agent`. `contract.py` tries all of it before training.

    Shapes:
        parts, joint: `[B, N, ...]`

    Attributes:
        local_execution: agent i can run its own part of it from its own data. Where False, `local` and `select_agent`
            raise TypeError, and acting needs `algorithm.execution=centralized`.
        satisfies_igd: the joint law it trains is the product of the agents' laws (Li et al., 2025,
            Definition 2, eq. 3).
        invertible: `split` undoes `join` in closed form. Then f joins states, true noises and predictions alike (eqs.
            9-11, B.26-B.28 there). If False, `split` raises TypeError, and f is a head on the predictions: states and
            true noises stay side by side (`as_state` and `as_parts` are the identity).
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"  # a few numbers, read by several methods
    local_execution: bool
    satisfies_igd: bool
    invertible: bool = True

    @abstractmethod
    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """From the agents' parts to the joint quantity.

        Args:
            parts: `[B, N, ...]`.
            condition: `[B, N, C]`, all agents' conditioning, which centralised factorisations may read, or None.
        """

    @abstractmethod
    def split(self, joint: Tensor) -> Tensor:
        """Inverse of `join`; TypeError where there is none (`invertible`)."""

    @abstractmethod
    def local(self, parts: Tensor) -> Tensor:
        """What agent i does to its own part at execution; TypeError where it cannot (`local_execution`)."""

    def as_state(self, parts: Tensor) -> Tensor:
        """Of the agents' data or true noises, the joint ones that diffuse: joined by f where it has an inverse."""
        return self.join(parts) if self.invertible else parts

    def as_parts(self, state: Tensor) -> Tensor:
        """Inverse of `as_state`."""
        return self.split(state) if self.invertible else state

    def metrics(self) -> dict[str, Tensor]:
        """Scalars for TensorBoard by tag (e.g. the learned weight of each agent); empty where there is nothing."""
        return {}

    def select_agent(self, agent: int) -> Self:
        """A copy for one agent alone (N = 1) whose `local` does to its part what ours does: what it is exported with.

        Without parameters and buffers there is nothing of any agent in it; with some, a subclass says which are whose.

        Raises:
            TypeError: no agent can run it alone (`local_execution`), or the subclass does not say.
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
    """h for values: from the agents' own values Q_i to the team's Q_tot.

    Made with the dataset's spec and `state_dim` S, 0 where there is nothing to condition on: weights that are made from
    the state are then constants that are learned.

    Shapes:
        values `[B, N, 1]`, state `[B, S]`, result `[B, 1]`

    Attributes:
        satisfies_igm: Q_tot is monotone in each Q_i, so ranking by Q_i ranks by Q_tot (IGM).
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"  # a few numbers
    satisfies_igm: bool

    @abstractmethod
    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mixes values in a state, on which it may condition in training."""

    def each(self, values: Tensor, state: Tensor) -> Tensor:
        """`[M, B, 1]`: mixes the values `[M, B, N, 1]` of several joint actions in each state `[B, S]`."""
        several, batch = values.shape[:2]
        mixed: Tensor = self(values.flatten(0, 1), state.repeat(several, 1))
        return mixed.reshape(several, batch, 1)
