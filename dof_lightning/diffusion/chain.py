"""The reverse chain through denoisers joined by f and h: one for each agent, or one for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dof_lightning.diffusion.sampler import Clip, Sampler

ConditionalDenoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


class Factorizes(Protocol):
    """The interface of f and h that a chain uses; `Factorization` describes each member."""

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor: ...  # noqa: D102

    def local(self, parts: Tensor) -> Tensor: ...  # noqa: D102

    @property
    def invertible(self) -> bool: ...  # noqa: D102

    def as_state(self, parts: Tensor) -> Tensor: ...  # noqa: D102

    def as_parts(self, state: Tensor) -> Tensor: ...  # noqa: D102


class RunsLocally(Protocol):
    """The interface of modules that declare whether agents can run them alone."""

    local_execution: bool


def as_it_is(x: Tensor) -> Tensor:
    """Returns x unchanged; the `pin` of a chain without known data."""
    return x


@dataclass(frozen=True)
class Chain:
    """Two ways from noise to data that share no code, so that comparing them is a real test.

    Attributes:
        denoiser: the bank of per-agent denoisers.
        noise_factorization: f.
        data_factorization: h.
        sampler: how the chain steps.
        clip: keeps the estimates of x_i^0 in range.
        pin: writes what is known of x_i^0 over it, before every step and at the end (in-painting).
        guidance_weight: w of classifier-free guidance, see `guided_noise`; 1 means none.
        kept: the number of entries at the end of the condition that guidance leaves unchanged.

    Shapes:
        condition `[B, N, C]`, noise `[S, B, N, ...]` with S = `sampler.n_noises`, result `[B, N, ...]`
    """

    denoiser: ConditionalDenoiser
    noise_factorization: Factorizes
    data_factorization: Factorizes
    sampler: Sampler
    clip: Clip
    pin: Clip = as_it_is
    guidance_weight: float = 1.0
    kept: int = 0

    def locally(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Runs one chain per agent, then h on its own x_i^0 (Li et al., 2025, Theorems 1-2: weights cancel)."""

        def own(x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
            return self.noise_factorization.local(self.denoiser(x, k, condition))

        def predict(x: Tensor, k: Tensor) -> Tensor:
            return guided_noise(own, self.pin(x), k, condition, self.guidance_weight, self.kept).to(x.dtype)

        sampled = self.sampler.sample(predict, noise, lambda x0: self.pin(self.clip(x0)))
        return self.pin(self.data_factorization.local(sampled))

    def jointly(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Runs the centralised chain, with state x_tot^k, noise f(eps) and data h(x^0)."""
        f = self.noise_factorization

        def clip_jointly(joint: Tensor) -> Tensor:
            return f.as_state(self.pin(self.clip(f.as_parts(joint))))

        def predict(joint: Tensor, k: Tensor) -> Tensor:
            return self.joint_noise(f.as_parts(joint), k, condition)

        joint_noise = torch.stack([f.as_state(draw) for draw in noise])
        parts = f.as_parts(self.sampler.sample(predict, joint_noise, clip_jointly))
        return self.pin(self.data_factorization.join(parts, condition))

    def joint_noise(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """eps_tot `[B, N, ...]` as a function of the agents' x^k.

        Guidance mixes the joint predictions with and without a condition, so that f joins the same quantities as in
        training.

        Args:
            x: `[B, N, ...]`, the agents' x^k.
            k: `[B]` int64.
            condition: `[B, N, C]`.
        """
        f = self.noise_factorization

        def joined(parts: Tensor, k: Tensor, condition: Tensor) -> Tensor:
            predicted = self.denoiser(parts, k, condition).to(parts.dtype)
            return f.as_state(predicted) if f.invertible else f.join(predicted, condition)

        return guided_noise(joined, self.pin(x), k, condition, self.guidance_weight, self.kept)


def check_runs_locally(denoiser: RunsLocally) -> None:
    """Refuses separate chains per agent if the agents meet in the denoiser.

    Raises:
        TypeError: the agents meet.
    """
    if not denoiser.local_execution:
        raise TypeError(f"{type(denoiser).__name__} needs all agents' rows (local_execution is False)")


def guided_noise(
    denoiser: ConditionalDenoiser, x: Tensor, k: Tensor, condition: Tensor, weight: float, kept: int = 0
) -> Tensor:
    """eps_u + w (eps_c - eps_u) (Ho and Salimans, 2022, eq. 6, with 1 + their w).

    Both predictions come from one call on twice the batch; with w = 1 or w = 0 only one of them is needed. Each agent's
    guidance uses its own condition only, so IGD holds.

    Args:
        denoiser: from x, k and condition to noise.
        x: `[B, N, ...]`.
        k: `[B]` int64.
        condition: `[B, N, C]`; all zeros mean no condition.
        kept: the number of entries at the end of the condition that both predictions receive.
        weight: w; 0 ignores the condition, 1 follows it, more exaggerates it.
    """
    if weight == 1.0:
        return denoiser(x, k, condition)
    nothing = torch.zeros_like(condition)
    if kept:
        nothing[..., -kept:] = condition[..., -kept:]
    if weight == 0.0:
        return denoiser(x, k, nothing)
    both = denoiser(torch.cat([x, x]), torch.cat([k, k]), torch.cat([nothing, condition]))
    without, following = both.reshape(2, *x.shape).unbind()  # torch.export cannot follow chunk
    return without + weight * (following - without)
