"""The contracts of noise and data factorisations, and of value mixers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from dof_lightning.sharding import FsdpRole


class Factorization(nn.Module, ABC):
    """A shape-preserving map between per-agent parts and the joint quantity: f (noise) or h (data).

    `join` is what training sees: joint = f(parts). `local` is what decentralised execution applies: agent i's result
    is a function of agent i's part only, so its Jacobian is block-diagonal.

    Shapes:
        parts, joint: `[B, N, ...]`

    Attributes:
        local_execution: agent i can run its own part of it from its own data.
        satisfies_igd: the joint law it trains is the product of the agents' laws (seed, Definition 2, eq. 3).
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"  # a few numbers, read by several methods
    local_execution: bool
    satisfies_igd: bool

    @abstractmethod
    def join(self, parts: Tensor) -> Tensor:
        """From the agents' parts to the joint quantity."""

    @abstractmethod
    def split(self, joint: Tensor) -> Tensor:
        """Inverse of `join`."""

    @abstractmethod
    def local(self, parts: Tensor) -> Tensor:
        """What agent i does to its own part at execution."""

    def metrics(self) -> dict[str, Tensor]:
        """Scalars for TensorBoard by tag (e.g. the learned weight of each agent); empty where there is nothing."""
        return {}

    def select_agent(self, agent: int) -> "Factorization":
        """A copy for one agent alone (N = 1) with `local` unchanged."""
        raise TypeError(f"{type(self).__name__} cannot run at one agent alone (local_execution is False)")


class ValueMixer(nn.Module, ABC):
    """h for values: from the agents' own values Q_i to the team's Q_tot.

    Attributes:
        satisfies_igm: Q_tot is monotone in each Q_i, so ranking by Q_i ranks by Q_tot (IGM; seed, slide 'IGM').
    """

    satisfies_igm: bool

    @abstractmethod
    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mixes.

        Args:
            values: `[B, N, 1]`, the agents' own values.
            state: `[B, S]`, what the mixer may condition on in training; zero-width if nothing.

        Returns:
            `[B, 1]`.
        """
