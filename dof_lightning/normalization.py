"""Per-agent normalisers: invertible maps of observations or actions, made from a dataset's statistics.

A dimension that is constant c in the data (padded ones: c = 0) becomes x - c under every normaliser but the identity.
"""

import copy
from abc import ABC, abstractmethod
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.spec import DimensionStatistics


class Normalizer(nn.Module, ABC):
    """A map to the range that diffusion works in, and back; its numbers are buffers `[N, ...]` saved with the weights.

    Shapes:
        x `[B, N, ..., D]`; the result has the same shape

    Attributes:
        clip_range: normalised data lie within +-clip_range, so a sampler may clip there; None if unbounded.
    """

    clip_range: float | None = None

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """Maps from the data's units to normalised ones."""

    @abstractmethod
    def unnormalize(self, z: Tensor) -> Tensor:
        """Maps from normalised units back to the data's."""

    def select_agent(self, agent: int) -> Self:
        """A copy with N = 1 that contains one agent's numbers only."""
        selected = copy.deepcopy(self)
        for name, buffer in list(selected.named_buffers()):
            setattr(selected, name, buffer[agent : agent + 1].clone())
        return selected


class Identity(Normalizer):
    """Leaves the data as they are; its clip range is 1 if they lie in [-1, 1], else None.

    Args:
        statistics: the data's statistics; None promises that the data lie in [-1, 1] (one-hot vectors, say).
    """

    def __init__(self, statistics: DimensionStatistics | None = None) -> None:
        super().__init__()
        bounded = statistics is None or bool(max(statistics.maximum.max(), -statistics.minimum.min()) <= 1.0)
        self.clip_range = 1.0 if bounded else None

    def normalize(self, x: Tensor) -> Tensor:
        """The data as they are."""
        return x

    def unnormalize(self, z: Tensor) -> Tensor:
        """The data as they are."""
        return z


class _Affine(Normalizer):
    """z = (x - center) / scale, per agent and dimension."""

    center: Tensor
    scale: Tensor

    def __init__(self, center: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("center", torch.as_tensor(center, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(np.where(is_constant(center, scale), 1.0, scale)).float())

    def normalize(self, x: Tensor) -> Tensor:
        """(x - center) / scale."""
        return (x - _per_dimension(self.center, x)) / _per_dimension(self.scale, x)

    def unnormalize(self, z: Tensor) -> Tensor:
        """Scale * z + center."""
        return z * _per_dimension(self.scale, z) + _per_dimension(self.center, z)


class Limits(_Affine):
    """Maps the data's [minimum, maximum] to [-1, 1]; values outside are extrapolated."""

    clip_range = 1.0

    def __init__(self, statistics: DimensionStatistics) -> None:
        low, high = statistics.minimum.astype(np.float64), statistics.maximum.astype(np.float64)
        super().__init__(center=(low + high) / 2, scale=(high - low) / 2)


class Gaussian(_Affine):
    """Normalises to mean 0 and standard deviation 1; unbounded."""

    def __init__(self, statistics: DimensionStatistics) -> None:
        super().__init__(center=statistics.mean, scale=statistics.std)


class EmpiricalCDF(Normalizer):
    """2 F(x) - 1 with F the data's distribution function, linear between quantile knots: uniform on [-1, 1].

    Several equal knots are an atom; it maps to the middle of its jump, and the whole jump maps back to it. Outside the
    data's range F is 0 or 1.

    Raises:
        UserError: fewer than two knots.
    """

    clip_range = 1.0
    knots: Tensor
    constant: Tensor

    def __init__(self, statistics: DimensionStatistics) -> None:
        super().__init__()
        if len(statistics.knots) < 2:
            raise UserError("normalizer=cdf needs at least 2 quantile knots in dataset.json; rebuild the dataset")
        knots = torch.as_tensor(statistics.knots, dtype=torch.float32).permute(1, 2, 0).contiguous()
        low, high = statistics.knots[0], statistics.knots[-1]
        self.register_buffer("knots", knots)
        self.register_buffer("constant", torch.as_tensor(is_constant(low, (high - low) / 2)))

    def normalize(self, x: Tensor) -> Tensor:
        """2 F(x) - 1, by bisection among the knots."""
        rows = _dimension_rows(x)
        knots = self.knots.to(rows.dtype)
        # F just before and just after x: they differ at an atom only.
        level = (self._distribution(knots, rows, right=False) + self._distribution(knots, rows, right=True)) / 2
        shifted = rows - knots[..., :1]
        z = torch.where(self.constant[..., None], shifted, 2 * level - 1)
        return _undo_dimension_rows(z, x)

    def unnormalize(self, z: Tensor) -> Tensor:
        """The quantile at (z + 1) / 2."""
        rows = _dimension_rows(z)
        knots = self.knots.to(rows.dtype)
        intervals = knots.shape[-1] - 1
        position = ((rows + 1) / 2 * intervals).clamp(0, intervals)
        left = position.detach().floor().clamp(max=intervals - 1)
        index = left.long()
        start, end = knots.gather(-1, index), knots.gather(-1, index + 1)
        quantile = start + (position - left) * (end - start)
        x = torch.where(self.constant[..., None], rows + knots[..., :1], quantile)
        return _undo_dimension_rows(x, z)

    @staticmethod
    def _distribution(knots: Tensor, rows: Tensor, right: bool) -> Tensor:
        """F of `[N, D, M]` in [0, 1]; at an atom its upper end if `right`, else its lower end."""
        intervals = knots.shape[-1] - 1
        found = torch.searchsorted(knots, rows.detach(), right=right)
        index = (found - 1).clamp(0, intervals - 1)
        start, end = knots.gather(-1, index), knots.gather(-1, index + 1)
        width = end - start
        beyond = rows >= start if right else rows > start
        within = torch.where(width > 0, (rows - start) / torch.where(width > 0, width, 1.0), beyond.to(rows.dtype))
        return (index + within.clamp(0, 1)) / intervals


NormalizerName = Literal["identity", "limits", "gaussian", "cdf"]
NORMALIZERS: dict[str, type[Identity | Limits | Gaussian | EmpiricalCDF]] = {
    "identity": Identity,
    "limits": Limits,
    "gaussian": Gaussian,
    "cdf": EmpiricalCDF,
}


def build_normalizer(kind: str, statistics: DimensionStatistics) -> Normalizer:
    """Builds a normaliser by its name in `NORMALIZERS` from the statistics of the data to normalise.

    Raises:
        UserError: the kind is unknown.
    """
    if kind not in NORMALIZERS:
        raise UserError(f"normalizer={kind} is unknown; choose one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[kind](statistics)


def is_constant(center: npt.ArrayLike, scale: npt.ArrayLike) -> np.ndarray:
    """Whether values around a center, `scale` apart, differ by no more than rounding; numbers, or arrays alike."""
    return np.asarray(scale) <= 1e-6 * np.maximum(1.0, np.abs(center))


def spread_or_one(spread: float, center: float = 0.0) -> float:
    """The divisor: the spread of values around a center, or 1 if they do not differ (`is_constant`).

    A small number instead of 1 would blow up values that are the same everywhere.
    """
    return 1.0 if is_constant(center, spread) else float(spread)


def _per_dimension(values: Tensor, x: Tensor) -> Tensor:
    """Converts `[N, D]` to a shape and dtype that broadcasts against `[B, N, ..., D]`."""
    n_agents, dim = values.shape
    return values.to(torch.promote_types(x.dtype, torch.float32)).reshape(n_agents, *[1] * (x.ndim - 3), dim)


def _dimension_rows(x: Tensor) -> Tensor:
    """Reshapes `[B, N, ..., D]` to `[N, D, M]`, at least float32."""
    rows = x.movedim((1, -1), (0, 1)).flatten(2).contiguous()
    return rows.to(torch.promote_types(x.dtype, torch.float32))


def _undo_dimension_rows(rows: Tensor, like: Tensor) -> Tensor:
    batch, n_agents, *middle, dim = like.shape
    return rows.reshape(n_agents, dim, batch, *middle).movedim((0, 1), (1, -1))
