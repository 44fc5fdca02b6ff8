"""The coordination gap: the information, in nats, that no product of the agents' distributions can represent.

Gap = sum_i H(x_i | o_i) - H(x_tot | o_tot). In a game with a table it has a closed form. Otherwise it is estimated from
two trained models, a factorised one (A) and a centralised one (B). With y = sqrt(snr) x + eps,
dI(x; y) / dsnr = mmse(snr) / 2 (I-MMSE; Guo, Shamai and Verdu, 2005, theorem 2), so that

    gap = 1/2 int_0^inf (mmse_A - mmse_B) dsnr = 1/2 int (E_A - E_B) dlog(snr),

where E = E ||eps - eps_theta||^2 = snr mmse is the squared noise error summed over agents and entries.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.seeding import make_generator


@dataclass(frozen=True)
class CoordinationGap:
    """An estimate of the coordination gap.

    Attributes:
        nats: the gap between snr_K and snr_1. The models' errors exceed their mmse: B's excess lowers it, A's raises
            it.
        standard_error: standard error of `nats` over held-out windows, assumed independent (those of one episode are
            not), with fixed models.
        discretization_error: difference to the integral over every other level; it is large if K is small.
        snr_lowest, snr_highest: the range of the schedule; dependence finer than 1 / sqrt(snr_highest) is not measured.
        windows: number of windows that were denoised.
    """

    nats: float
    standard_error: float
    discretization_error: float
    snr_lowest: float
    snr_highest: float
    windows: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for printing."""
        return asdict(self)


def integrate_errors(difference: Tensor, alpha_bars: Tensor) -> Tensor:
    """1/2 int (E_A - E_B) dlog(snr) by the trapezoidal rule over the schedule's K levels.

    Nothing is added for the range outside. Below snr_K the integrand falls as snr (if A and B have the same
    information) or slower, and at most snr_K Var(x) / 2 is missed; above snr_1, dependence that this little noise hides
    is missed.

    Args:
        difference: `[..., K]`, E_A - E_B at k = 1..K.
        alpha_bars: `[K + 1]`, the schedule's values from k = 0 on.

    Returns:
        `[...]`, nats.
    """
    kept = alpha_bars[1:].double()
    log_snr = kept.log() - torch.log1p(-kept)
    return torch.trapezoid(difference.double().flip(-1), log_snr.flip(0), dim=-1) / 2


@torch.no_grad()
def estimate(
    factorized: DoFLightningModule, centralized: DoFLightningModule, batches: Iterable[EpisodeBatch], seed: int
) -> CoordinationGap:
    """Estimates the gap on held-out windows; both models denoise the same noised data, with averaged weights.

    Args:
        factorized: A, whose f satisfies IGD.
        centralized: B, whose agents have access to each other's x, in f or in the denoiser.
        batches: held-out windows.
        seed: the noise's seed.

    Raises:
        UserError: the two models do not fit together, or no window is held out.
    """
    _check_pair(factorized, centralized)
    factorized.eval()
    centralized.eval()
    alpha_bars, gaps, coarse = factorized.schedule.alpha_bars, [], []
    for number, batch in enumerate(batches):
        data, data_b = (
            model.diffused(batch, make_generator(seed, "coordination gap", number))
            for model in (factorized, centralized)
        )
        if not _are_alike(data.x0, data_b.x0) or not _are_alike(data.mask, data_b.mask):
            raise UserError(
                "compare: the two models do not diffuse the same data (windows, normaliser); train them alike"
            )
        per_level = []
        for k in range(1, factorized.schedule.steps + 1):
            errors = [
                model.noise_error(about, k, make_generator(seed, "coordination gap", number, k))
                for model, about in ((factorized, data), (centralized, data_b))
            ]
            per_level.append(errors[0] - errors[1])
        difference = torch.stack(per_level, dim=-1)
        gaps.append(integrate_errors(difference, alpha_bars))
        coarse.append(integrate_errors(difference[..., ::2], alpha_bars[[0, *range(1, len(alpha_bars), 2)]]))
    if not gaps:
        raise UserError("no window is held out; use more episodes (data.episodes)")
    gap, kept = torch.cat(gaps), alpha_bars[1:]
    lowest, highest = (float(level / (1 - level)) for level in (kept[-1], kept[0]))
    error = float(gap.std(correction=0)) / math.sqrt(len(gap))
    discretization = abs(float(gap.mean() - torch.cat(coarse).mean()))
    return CoordinationGap(float(gap.mean()), error, discretization, lowest, highest, len(gap))


def _check_pair(factorized: DoFLightningModule, centralized: DoFLightningModule) -> None:
    if factorized.spec.fingerprint != centralized.spec.fingerprint:
        names = f"{factorized.spec.name} and {centralized.spec.name}"
        raise UserError(f"compare: the two checkpoints were trained on different datasets ({names})")
    if not _is_factorized(factorized) or _is_factorized(centralized):
        raise UserError(
            "compare: checkpoint= must be a factorised model and compare= one whose f or denoiser reads all agents "
            "(noise_factorization=attention, denoiser=attention_mlp or attention_unet); swap them, or train the other"
        )
    if any(model.settings.seeds.count for model in (factorized, centralized)):
        raise UserError(
            "compare: a model with algorithm.shared_seeds gets a seed made from the data, so its error does not show "
            "what agents can know; train with algorithm.shared_seeds=null"
        )
    if factorized.window != centralized.window:
        raise UserError("compare: the two models diffuse windows of different lengths; train both with the same length")
    ours, theirs = factorized.schedule.alpha_bars, centralized.schedule.alpha_bars
    if ours.shape != theirs.shape or not torch.equal(ours, theirs):
        raise UserError(
            "compare: the two checkpoints have different noise schedules; train both with the same schedule="
        )


def _is_factorized(model: DoFLightningModule) -> bool:
    return model.noise_factorization.satisfies_igd and bool(model.denoiser.local_execution)


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
