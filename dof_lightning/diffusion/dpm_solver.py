"""DPM-Solver++: a sampler of few steps that also uses the estimate of the previous step."""

import math

from dof_lightning.diffusion.sampler import Sampler, Weights


class DPMSolver(Sampler):
    """Second-order multistep DPM-Solver++ (Lu et al., 2022, arXiv 2211.01095, Algorithm 2, "2M"), deterministic.

    With signal a = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar) and lambda = log(a / sigma), a step from s to t that
    follows a step from r to s has h = lambda_t - lambda_s and ratio = (lambda_s - lambda_r) / h:

        D   = (1 + 1 / (2 ratio)) x0_s - 1 / (2 ratio) x0_r
        x_t = sigma_t / sigma_s x_s - a_t (exp(-h) - 1) D

    The x0 are the clipped estimates, so x follows the clipping, as with DDIM. The first step has no predecessor, and in
    the last one h is infinite: both take D = x0_s, which is DDIM with eta = 0. So with one or two steps the two
    samplers are the same.
    """

    def _weights(self, alpha_bar: float, target: float, before: float | None) -> Weights:
        on_x = math.sqrt((1.0 - target) / (1.0 - alpha_bar))
        on_data = math.sqrt(target) - on_x * math.sqrt(alpha_bar)  # -a_t (exp(-h) - 1), without an infinite h
        if before is None or target == 1.0:
            return Weights(on_data, on_x)
        ratio = (_half_log_snr(alpha_bar) - _half_log_snr(before)) / (_half_log_snr(target) - _half_log_snr(alpha_bar))
        extrapolated = on_data / (2.0 * ratio)
        return Weights(on_data + extrapolated, on_x, on_previous=-extrapolated)


def _half_log_snr(alpha_bar: float) -> float:
    """Lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar))."""
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))
