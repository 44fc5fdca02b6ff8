"""What noise and data factorisations that act on each agent's part alone have in common."""

import copy
from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from dof_lightning.factorization.base import Factorization
from dof_lightning.spec import DatasetSpec


def per_agent(weight: Tensor, like: Tensor) -> Tensor:
    """`[N]` to a shape that broadcasts against `[B, N, ...]`."""
    return weight.reshape(-1, *[1] * (like.ndim - 2))


class Concat(Factorization):
    """The agents' parts side by side: f (Li et al., 2025, Theorem 1, eqs. 8-11) and h alike.

    Args:
        spec: the dataset's spec, not read: nothing is learned.
    """

    local_execution = True
    satisfies_igd = True

    def __init__(self, spec: DatasetSpec | None = None) -> None:
        super().__init__()

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """The parts as they are."""
        return parts

    def split(self, joint: Tensor) -> Tensor:
        """The parts as they are."""
        return joint

    def local(self, parts: Tensor) -> Tensor:
        """The parts as they are."""
        return parts


class WeightedConcatenation(Factorization):
    """The agents' parts side by side, agent i's times a learned w_i > 0; w_i = 1 before training.

    Args:
        spec: the dataset's spec; N weights are learned.
    """

    local_execution = True
    satisfies_igd = True

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(spec.n_agents))

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """`[N]`, positive."""

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """w_i x_i."""
        return parts * per_agent(self.weight, like=parts)

    def split(self, joint: Tensor) -> Tensor:
        """x_i from w_i x_i."""
        return joint / per_agent(self.weight, like=joint)

    def metrics(self) -> dict[str, Tensor]:
        """The weight of each agent, by tag `weight_<agent>`."""
        return {f"weight_{agent}": weight for agent, weight in enumerate(self.weight.detach().unbind())}

    def select_agent(self, agent: int) -> Self:
        """A copy for one agent alone, holding its weight only."""
        selected = copy.deepcopy(self)
        own = self.log_weight.detach()[agent : agent + 1].clone()
        selected.log_weight = nn.Parameter(own, self.log_weight.requires_grad)
        return selected
