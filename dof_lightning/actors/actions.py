"""Actions as the vectors that diffuse, and back: continuous ones are such vectors, discrete ones become one-hot."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from dof_lightning.spec import ActionKind


class ActionCodec(ABC):
    """Encodes an agent's action as a vector in [-1, 1] and decodes it; holds no tensors.

    Shapes:
        x `[B, N, A]`, mask `[N, A]` bool (False on padding, where x is 0), legal `[B, N, A]` bool or None
    """

    @abstractmethod
    def encode(self, actions: Tensor, mask: Tensor, like: Tensor) -> Tensor:
        """Encodes the dataset's actions as x; integer actions get the dtype of `like`."""

    @abstractmethod
    def relax(self, x: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
        """The form of an estimate of x that critics judge; differentiable."""

    @abstractmethod
    def finish(self, x: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
        """The vector of the action that an agent takes given x."""

    @abstractmethod
    def draw_anywhere(
        self, draws: int, like: Tensor, mask: Tensor, legal: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws M uniform finished actions `[M, B, N, A]`; also returns the log of the volume or number drawn from.

        Args:
            draws: M, number of draws.
            like: `[B, N, A]`, actions of the same rows.
            mask: see the class.
            legal: see the class.
            generator: draws them.

        Returns:
            the actions, and the log of the volume or number, `[N]` or `[B, N]`.
        """

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Decodes a finished x into the environment's actions."""


class ContinuousActions(ActionCodec):
    """Actions in [-1, 1] diffuse as they are; nothing is illegal."""

    def encode(self, actions: Tensor, mask: Tensor, like: Tensor) -> Tensor:
        """The actions as they are."""
        return actions

    def relax(self, x: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
        """The estimate as it is."""
        return x

    def finish(self, x: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
        """The sample as it is."""
        return x

    def draw_anywhere(
        self, draws: int, like: Tensor, mask: Tensor, legal: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Uniform in [-1, 1]^d, of volume 2^d."""
        drawn = torch.rand((draws, *like.shape), generator=generator, device=like.device, dtype=like.dtype)
        return (2 * drawn - 1) * mask, mask.sum(-1) * math.log(2.0)

    def decode(self, x: Tensor) -> Tensor:
        """The vector as it is, `[B, N, A]`."""
        return x


class DiscreteActions(ActionCodec):
    """One-hot vectors in {-1, 1}; the action is the largest legal entry [inferred: not in the paper].

    The estimate of x0 that a denoiser gives is the mean of one-hot vectors given x_k, so its entries are 2 p - 1 with p
    the probabilities of the actions. Critics judge this soft estimate if a gradient is needed; an illegal action has
    p = 0. Along the way between two one-hot vectors the gradient adds up to the difference of their values, which a
    straight-through gradient, always taken at the ends, need not do.
    """

    def encode(self, actions: Tensor, mask: Tensor, like: Tensor) -> Tensor:
        """One-hot in {-1, 1} of indices `[B, N]`."""
        hot = functional.one_hot(actions, mask.shape[-1]).to(like.dtype)
        return (2 * hot - 1) * mask

    def relax(self, x: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
        """The soft estimate, with -1 for illegal choices."""
        return x if legal is None else x.masked_fill(mask & ~legal, -1.0)

    def finish(self, x: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
        """One-hot of the largest legal entry."""
        return self.encode(best_legal(x, mask, legal), mask, like=x)

    def draw_anywhere(
        self, draws: int, like: Tensor, mask: Tensor, legal: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws among the legal choices, all equally likely."""
        score = torch.rand((draws, *like.shape), generator=generator, device=like.device, dtype=like.dtype)
        allowed = mask if legal is None else mask & legal
        drawn = best_legal(score, mask, legal)
        number = allowed.sum(-1).clamp_min(1)  # an agent without a legal choice does not count, but must not be NaN
        return self.encode(drawn.flatten(0, 1), mask, like).reshape(score.shape), number.to(like.dtype).log()

    def decode(self, x: Tensor) -> Tensor:
        """Indices `[B, N]` int64."""
        return x.argmax(-1)


def best_legal(values: Tensor, mask: Tensor, legal: Tensor | None) -> Tensor:
    """The index `[...]` of the largest of values `[..., A]` that is legal (None: all are) and not padding (mask)."""
    allowed = mask if legal is None else mask & legal
    return values.masked_fill(~allowed, -torch.inf).argmax(-1)


CODECS: dict[ActionKind, ActionCodec] = {"continuous": ContinuousActions(), "discrete": DiscreteActions()}
