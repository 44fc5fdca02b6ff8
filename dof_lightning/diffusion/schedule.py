"""Noise schedules: the share of the data that is left at step k.

Steps run from 1 to K; index 0 is the data themselves. In
x_k = sqrt(alpha_bar_k) x_0 + sqrt(1 - alpha_bar_k) epsilon (Ho et al., 2020, eq. 4),
alpha_bar_0 = 1 and alpha_bar_k = prod_{l <= k} (1 - beta_l).
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.settings import NonNegative, Positive

LARGEST_SIGNAL_AT_END = 0.1
LARGEST_BETA = 0.999


class Schedule(nn.Module):
    """alpha_bar_k and the quantities derived from it.

    The table is kept in float64 whatever dtype the module around it is cast to, and is not saved: it is recomputed from
    the configuration. Results have the dtype of the tensors handed in, at least float32.

    Args:
        betas: `[K]` float64 in (0, 1).

    Shapes:
        k `[B]` int64 in 0..K, applied to tensors `[B, ...]`
    """

    alpha_bars: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        signal = torch.cumprod(1.0 - betas.to(torch.float64), dim=0)
        self.register_buffer("alpha_bars", torch.cat([signal.new_ones(1), signal]), persistent=False)

    @property
    def steps(self) -> int:
        """K, the number of steps."""
        return len(self.alpha_bars) - 1

    @property
    def betas(self) -> Tensor:
        """`[K]` float64: beta_k = 1 - alpha_bar_k / alpha_bar_{k-1}."""
        return 1.0 - self.alpha_bars[1:] / self.alpha_bars[:-1]

    def alpha_bar(self, k: Tensor, like: Tensor | None = None) -> Tensor:
        """Share of the data's variance left at step k.

        Args:
            k: `[B]` int64.
            like: `[B, ...]`, gives the result its shape for broadcasting and its dtype.

        Returns:
            `[B, 1, ...]` with as many dimensions as `like`; `[B]` float32 without it.
        """
        return _cast(self.alpha_bars[k], like)

    def snr(self, k: Tensor, like: Tensor | None = None) -> Tensor:
        """Signal-to-noise ratio alpha_bar_k / (1 - alpha_bar_k), infinite at k = 0; shapes as in `alpha_bar`."""
        alpha_bar = self.alpha_bars[k]
        return _cast(alpha_bar / (1.0 - alpha_bar), like)

    def add_noise(self, x0: Tensor, noise: Tensor, k: Tensor) -> Tensor:
        """Computes x_k from x_0 and standard normal noise (Ho et al., 2020, eq. 4); all `[B, ...]`."""
        signal, sigma = self._scales(k, x0)
        return signal * x0 + sigma * noise

    def predict_x0(self, x_k: Tensor, eps: Tensor, k: Tensor) -> Tensor:
        """Computes x_0 from x_k and its noise eps: the inverse of `add_noise`; all `[B, ...]`."""
        signal, sigma = self._scales(k, x_k)
        return (x_k - sigma * eps) / signal

    def _scales(self, k: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alpha_bars[k]
        return _cast(alpha_bar.sqrt(), like), _cast((1.0 - alpha_bar).sqrt(), like)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Casting the module around it (.half(), .bfloat16()) would ruin 1 - alpha_bar: follow the device only.
        device = fn(torch.empty(0, device=self.alpha_bars.device)).device
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.alpha_bars = self.alpha_bars.to(device=device, dtype=exact)
        return self


def vp(steps: int, beta_min: NonNegative = 0.1, beta_max: Positive = 10.0) -> Schedule:
    """Variance-preserving schedule, which reaches the same noise for every K (Diffusion-QL, Wang et al., 2023).

    beta_k = 1 - exp(-beta_min / K - (beta_max - beta_min) (2k - 1) / (2 K^2)).

    Args:
        steps: K.
        beta_min: rate at the data's end, per whole chain.
        beta_max: rate at the noise's end, per whole chain.

    Raises:
        UserError: K < 1, or x_K is not noise: sqrt(alpha_bar_K) > 0.1.
    """

    def betas(count: int) -> Tensor:
        k = _step_indices(count)
        return 1.0 - torch.exp(-beta_min / count - 0.5 * (beta_max - beta_min) * (2 * k - 1) / count**2)

    return _build("vp", betas, steps, otherwise="schedule.beta_max=10")


def cosine(steps: int) -> Schedule:
    """Squared-cosine schedule (Nichol and Dhariwal, 2021, eq. 17), beta at most 0.999.

    Args:
        steps: K.

    Raises:
        UserError: K < 1.
    """

    def betas(count: int) -> Tensor:
        position = torch.cat([torch.zeros(1, dtype=torch.float64), _step_indices(count)]) / count
        level = torch.cos((position + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1.0 - level[1:] / level[:-1]).clamp(max=LARGEST_BETA)

    return _build("cosine", betas, steps)


def linear(steps: int) -> Schedule:
    """Betas from 1e-4 to 2e-2 (Ho et al., 2020) scaled by 1000 / K, so that a short chain reaches noise too.

    Args:
        steps: K.

    Raises:
        UserError: K < 1, or x_K is not noise: sqrt(alpha_bar_K) > 0.1.
    """

    def betas(count: int) -> Tensor:
        return (torch.linspace(1e-4, 2e-2, count, dtype=torch.float64) * 1000 / count).clamp(max=LARGEST_BETA)

    return _build("linear", betas, steps)


def _build(name: str, betas: Callable[[int], Tensor], steps: int, otherwise: str | None = None) -> Schedule:
    """Builds the schedule of K `betas`; refuses one whose last step is not pure noise, where sampling starts.

    `otherwise` is the setting to recommend if no K helps.
    """
    if steps < 1:
        raise UserError(f"schedule.steps={steps} of schedule={name} must be at least 1")
    signal = _signal_at_end(betas(steps))
    if signal <= LARGEST_SIGNAL_AT_END:
        return Schedule(betas(steps))
    candidates = (k for k in range(1, 1001) if _signal_at_end(betas(k)) <= LARGEST_SIGNAL_AT_END)
    enough = next(candidates, None)
    remedy = otherwise if enough is None else f"schedule.steps={enough}"
    raise UserError(
        f"schedule={name} with schedule.steps={steps} never reaches noise: sqrt(alpha_bar_K) = {signal:.2f} > "
        f"{LARGEST_SIGNAL_AT_END}; {remedy or 'another schedule'} works"
    )


def _signal_at_end(betas: Tensor) -> float:
    return math.sqrt(float(torch.prod(1.0 - betas)))


def _step_indices(count: int) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64)


def _cast(values: Tensor, like: Tensor | None) -> Tensor:
    """Converts `[B]` float64 to the shape and dtype that broadcasts against `like`."""
    if like is None:
        return values.to(torch.float32)
    shaped = values.reshape(-1, *[1] * (like.ndim - 1))
    return shaped.to(torch.promote_types(like.dtype, torch.float32))
