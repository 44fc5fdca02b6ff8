"""A batch on its way through the diffusion model: what diffuses, and what the denoisers made of it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Denoised:
    """One noising and denoising of a batch.

    Attributes:
        k: `[B]` diffusion steps in 1..K.
        noise: `[B, N, ...]`, the agents' true noise eps_i.
        prediction: `[B, N, ...]`, eps_theta_i(x_i^k, k); joined already by an f that has no inverse.
        x0: `[B, N, ...]`, the one-step estimate of the data, clipped (see `clip_with_way_back`).
        clipped_share: scalar, share of the estimate's entries that the clip changed.
    """

    k: Tensor
    noise: Tensor
    prediction: Tensor
    x0: Tensor
    clipped_share: Tensor


@dataclass(frozen=True)
class Diffused:
    """What of a batch diffuses.

    Attributes:
        x0: `[B, N, ...]`, data, normalised.
        condition: `[B, N, C]`, what each agent is told.
        mask: bool, broadcasts against x0, False where a sample's data are known or padding.
        weight: as x0, of a masked mean whose divisor is a constant of the batch.
    """

    x0: Tensor
    condition: Tensor
    mask: Tensor
    weight: Tensor
