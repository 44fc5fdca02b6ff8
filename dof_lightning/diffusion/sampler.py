"""Samplers: from noise to data in a few steps, in the space of the caller's x (dpm_solver.py contains another).

Samplers hold numbers only, so a joint chain and N local chains use the same arithmetic, while the code that calls the
denoisers stays separate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.errors import UserError

Clip = Callable[[Tensor], Tensor]
Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StepCoefficients:
    """One sub-step: x0 = clip((x - sigma_k eps) / signal_k), then a sum that gives the next x.

    x <- on_x0 x0 + on_previous (x0 of the sub-step before) + on_x x + on_noise noise

    Attributes:
        signal_k: sqrt(alpha_bar_k).
        sigma_k: sqrt(1 - alpha_bar_k).
        on_x0, on_x, on_noise, on_previous: weights of the four terms.
    """

    signal_k: float
    sigma_k: float
    on_x0: float
    on_x: float
    on_noise: float
    on_previous: float = 0.0


class Weights(NamedTuple):
    """The last four fields of `StepCoefficients`."""

    on_x0: float
    on_x: float
    on_noise: float = 0.0
    on_previous: float = 0.0


class Sampler(ABC):
    """A chain of S sub-steps through a schedule's K steps.

    The sub-chain is `K - round(j K / S)`, j = 0..S-1 (diffusers calls this "trailing" spacing): it starts at K, where
    x really is noise, and its last sub-step ends at the data.

    Args:
        schedule: the schedule the denoiser was trained with.
        steps: S; None means all K.
        temperature: factor on the start noise; 1 samples the model's law, less than 1 narrows it.

    Attributes:
        timesteps: the S values of k, descending.
        n_noises: how many noise tensors a chain uses: the start, and one for each sub-step that adds noise.

    Raises:
        UserError: S is not in 1..K, or the temperature is negative.
    """

    def __init__(self, schedule: Schedule, steps: int | None = None, temperature: float = 1.0) -> None:
        count = schedule.steps if steps is None else steps
        if not 1 <= count <= schedule.steps:
            raise UserError(f"sampler.steps={steps} must be between 1 and schedule.steps={schedule.steps}")
        if temperature < 0:
            raise UserError(f"sampler.temperature={temperature} must not be negative")
        self.temperature = temperature
        self.timesteps = [schedule.steps - round(j * schedule.steps / count) for j in range(count)]
        alpha_bars = schedule.alpha_bars.tolist()
        levels = [alpha_bars[k] for k in (*self.timesteps, 0)]
        befores = [None, *levels[:-2]]
        self.coefficients = [
            self._coefficients(alpha_bar, target, before)
            for alpha_bar, target, before in zip(levels[:-1], levels[1:], befores, strict=True)
        ]
        self.n_noises = 1 + sum(step.on_noise > 0 for step in self.coefficients)

    @abstractmethod
    def _weights(self, alpha_bar: float, target: float, before: float | None) -> Weights:
        """The weights of a sub-step.

        Args:
            alpha_bar: the level it leaves.
            target: the cleaner level it reaches; 1, the data, in the last one only.
            before: the level that the sub-step before it left; None in the first one.
        """

    def estimate(self, x: Tensor, eps: Tensor, index: int, clip: Clip | None = None) -> Tensor:
        """Estimates the data from x and the noise predicted in it.

        Args:
            x: `[B, ...]` at level `timesteps[index]`.
            eps: `[B, ...]`, the noise predicted in x.
            index: 0..S-1.
            clip: keeps the result in range; None means no clipping.

        Returns:
            x0 `[B, ...]`, at least float32.
        """
        own = self.coefficients[index]
        x0 = (_at_least_float32(x) - own.sigma_k * eps) / own.signal_k
        return x0 if clip is None else clip(x0)

    def step(
        self, x: Tensor, x0: Tensor, index: int, noise: Tensor | None = None, previous: Tensor | None = None
    ) -> Tensor:
        """Takes one sub-step, given the estimate of the data.

        Args:
            x: `[B, ...]` at level `timesteps[index]`.
            x0: `[B, ...]` from `estimate`.
            index: 0..S-1.
            noise: `[B, ...]` standard normal; not read, and may be None, if the sub-step adds none.
            previous: `[B, ...]`, x0 of the sub-step before; None in the first one, and not read by one-step methods.

        Returns:
            `[B, ...]` at the next level, at least float32; data after the last sub-step.
        """
        own = self.coefficients[index]
        mean = own.on_x0 * x0 + own.on_x * _at_least_float32(x)
        if own.on_previous != 0 and previous is not None:
            mean = mean + own.on_previous * previous
        return mean if own.on_noise == 0 or noise is None else mean + own.on_noise * noise

    def sample(self, denoise: Denoise, noises: Tensor, clip: Clip | None = None) -> Tensor:
        """Runs the whole chain; gradients flow through it if they are enabled.

        Args:
            denoise: maps x `[B, ...]` and k `[B]` int64 to the predicted noise `[B, ...]`.
            noises: `[n_noises, B, ...]` standard normal, the start first.
            clip: see `estimate`.

        Returns:
            `[B, ...]`, data.
        """
        x, previous = (noises[0] if self.temperature == 1.0 else self.temperature * noises[0]), None
        for index, k in enumerate(self.timesteps):
            steps = torch.full((x.shape[0],), k, dtype=torch.int64, device=x.device)
            x0 = self.estimate(x, denoise(x, steps), index, clip)
            noise = noises[index + 1] if self.coefficients[index].on_noise > 0 else None
            x = self.step(x, x0, index, noise, previous)
            previous = x0
        return x

    def _coefficients(self, alpha_bar: float, target: float, before: float | None) -> StepCoefficients:
        weights = self._weights(alpha_bar, target, before)
        return StepCoefficients(math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar), *weights)


class DDPM(Sampler):
    """Ancestral sampling from the posterior q(x_l | x_k, x_0) (Ho et al., 2020, eqs. 6-7, smaller variance).

    With S < K the posterior is that of the sub-chain, as if the schedule had only those steps (Nichol and Dhariwal,
    2021, section 4).
    """

    def _weights(self, alpha_bar: float, target: float, before: float | None) -> Weights:
        kept = alpha_bar / target
        on_x0 = math.sqrt(target) * (1.0 - kept) / (1.0 - alpha_bar)
        on_x = math.sqrt(kept) * (1.0 - target) / (1.0 - alpha_bar)
        return Weights(on_x0, on_x, math.sqrt((1.0 - target) / (1.0 - alpha_bar) * (1.0 - kept)))


class DDIM(Sampler):
    """Implicit sampling (Song et al., 2021, eqs. 12 and 16): deterministic after the start at eta = 0, DDPM at 1.

    The noise direction is taken from x and the *clipped* x0, so both stay on one trajectory
    (`use_clipped_model_output=True` in diffusers).

    Args:
        schedule, steps, temperature: see `Sampler`.
        eta: share of DDPM's noise, in [0, 1].

    Raises:
        UserError: as in `Sampler`, or eta is out of range.
    """

    def __init__(
        self, schedule: Schedule, steps: int | None = None, eta: float = 0.0, temperature: float = 1.0
    ) -> None:
        if not 0.0 <= eta <= 1.0:
            raise UserError(f"sampler.eta={eta} must be between 0 (deterministic) and 1 (as much noise as ddpm)")
        self.eta = eta
        super().__init__(schedule, steps, temperature)

    def _weights(self, alpha_bar: float, target: float, before: float | None) -> Weights:
        variance = self.eta**2 * (1.0 - target) / (1.0 - alpha_bar) * (1.0 - alpha_bar / target)
        on_x = math.sqrt(max(1.0 - target - variance, 0.0)) / math.sqrt(1.0 - alpha_bar)
        return Weights(math.sqrt(target) - on_x * math.sqrt(alpha_bar), on_x, math.sqrt(variance))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
