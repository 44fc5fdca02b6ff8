"""Settings and parts of a factorised model, and the forms that a batch takes inside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor

from dof_lightning.algorithms.base import AlgorithmSettings
from dof_lightning.diffusion.chain import RunsLocally
from dof_lightning.diffusion.sampler import DDIM, Sampler
from dof_lightning.diffusion.schedule import Schedule, vp
from dof_lightning.diffusion.seed_conditioning import NO_SEEDS, SharedSeeds
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.factorization.base import Factorization
from dof_lightning.factorization.concat import Concat
from dof_lightning.factorization.contract import broken_promise, shrinks_errors
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.normalization import NormalizerName
from dof_lightning.policy import Execution
from dof_lightning.settings import FractionBelowOne, NonNegative, Positive, Range
from dof_lightning.spec import ActionKind, DatasetSpec

DEFAULT_SCHEDULE = partial(vp, steps=10)
FIVE_STEPS = partial(DDIM, steps=5)
_LOCAL = {
    "noise_factorization": "noise_factorization=concat, wconcat or dec_attention",
    "data_factorization": "data_factorization=concat or wconcat",
    "denoiser": "a denoiser without attention over agents, or algorithm=madiff_d, whose agents imagine the others",
    "algorithm.inverse.sharing": "independent or shared",
}


@dataclass(frozen=True)
class Parts:
    """The parts of a factorised model.

    Attributes:
        denoiser: the bank of per-agent denoisers, `(x [B, N, ...], k [B], condition [B, N, C]) -> [B, N, ...]`.
        noise_factorization: f.
        data_factorization: h.
    """

    denoiser: Agentwise
    noise_factorization: Factorization
    data_factorization: Factorization


def check_execution(execution: Execution, parts: Mapping[str, RunsLocally]) -> None:
    """Refuses parts that need all agents' data if agents act alone.

    Args:
        execution: the requested execution.
        parts: the parts by the key that selects them, one of `_LOCAL`.

    Raises:
        UserError: names the key and the fix.
    """
    for key, part in parts.items():
        if missing := [name for name in ("local_execution", "select_agent") if not hasattr(part, name)]:
            raise UserError(
                f"{key}: {type(part).__name__} has no {' and no '.join(missing)}, so it is unknown whether and with "
                "what an agent runs it alone; derive it from Factorization or Agentwise"
            )
        if execution == "decentralized" and not part.local_execution:
            raise UserError(
                f"{key}: {type(part).__name__} cannot run locally (local_execution), agents would need one another's "
                f"data to act; choose {_LOCAL[key]}; or execution=centralized, labelled so wherever it is reported"
            )


def check_parts(execution: Execution, parts: Parts, like: Tensor, imagined: Sequence[str] = ()) -> None:
    """Refuses parts by which agents cannot act, before a model is trained that could not be exported.

    Args:
        execution: the requested execution.
        parts: the model's parts.
        like: `[N, ...]`, has the shape of one sample's data.
        imagined: parts that agents run on themselves and on teammates they imagine.

    Raises:
        UserError: f or h breaks its contract (`broken_promise`, `shrinks_errors`), or as in `check_execution`.
    """
    for key in ("noise_factorization", "data_factorization"):
        part: Factorization = getattr(parts, key)
        if broken := broken_promise(part, like, alone=execution == "decentralized"):
            raise UserError(f"{key}: {type(part).__name__} {broken} (docs/guide/extending.md)")
    if shrinks_errors(parts.noise_factorization, like):
        raise UserError(
            f"noise_factorization: {type(parts.noise_factorization).__name__} can make all agents' errors small by its "
            "own weights, so the loss falls and no denoiser learns; fix their scale, e.g. their mean "
            "(docs/guide/extending.md)"
        )
    check_execution(execution, {key: part for key, part in vars(parts).items() if key not in imagined})


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(AlgorithmSettings):
    """Settings that all diffusion models share.

    Attributes:
        denoiser: called with the spec and `condition_dim`, returns the bank of per-agent denoisers.
        noise_factorization: f, called with the spec.
        data_factorization: h, called with the spec.
        schedule: called without arguments.
        sampler: the sampler of execution, called with the schedule.
        observation_normalizer: `identity`, `limits`, `gaussian` (not clipped) or `cdf`.
        learning_rate: Adam's learning rate for denoisers, f and h.
        ema_decay: decay of the moving averages that act.
    """

    denoiser: Callable[..., Agentwise]
    noise_factorization: Callable[[DatasetSpec], Factorization] = noise.WConcat
    data_factorization: Callable[[DatasetSpec], Factorization] = data.WConcat
    schedule: Callable[[], Schedule] = DEFAULT_SCHEDULE
    sampler: Callable[[Schedule], Sampler]
    observation_normalizer: NormalizerName = "gaussian"
    learning_rate: Positive = 3e-4
    ema_decay: FractionBelowOne = 0.995

    @property
    def seeds(self) -> SharedSeeds:
        """The conditioning by a common seed; here there is none."""
        return NO_SEEDS

    def build_parts(self, spec: DatasetSpec, condition_dim: int) -> Parts:
        """Builds denoisers, f and h, in this order: the results of a seed depend on it.

        Args:
            spec: the dataset's spec.
            condition_dim: C, number of entries that each agent conditions on, without a common seed.
        """
        denoiser = self.denoiser(spec, condition_dim=condition_dim + self.seeds.width)
        return Parts(denoiser, self.noise_factorization(spec), self.data_factorization(spec))


def build_target_sampler(build: Callable[[Schedule], Sampler], schedule: Schedule) -> Sampler:
    """Builds the sampler of TD targets, whose errors name it and not that of execution.

    Raises:
        UserError: a value of `algorithm.target_sampler` is not allowed.
    """
    try:
        return build(schedule)
    except UserError as error:
        raise UserError(str(error).replace("sampler.", "algorithm.target_sampler.", 1)) from error


@dataclass(frozen=True, kw_only=True)
class DataDiffusionSettings(DiffusionSettings):
    """Settings that models of the data themselves share.

    Attributes:
        reconstruction_weight: lambda, weight of the loss that trains h to reconstruct the data; if h has no other
            gradient (planners, cloning), Adam cancels the weight's size, except for rounding.
        gradient_clip: largest gradient norm of each agent's denoiser; None means no clipping.
        shared_seeds: M, number of values of a random seed that all agents receive before an episode
            (docs/method/shared_seed.md); None means no such seed.
    """

    reconstruction_weight: NonNegative = 1.0
    gradient_clip: Positive | None = None
    shared_seeds: Annotated[int, Range(2)] | None = None

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """See the base class; an h without parameters learns nothing, whatever the weight."""
        made = getattr(self.data_factorization, "func", self.data_factorization)
        found = super().idle(action_kind)
        if made is Concat:
            found["reconstruction_weight"] = "data_factorization=concat has nothing to learn"
        return found

    @property
    def seeds(self) -> SharedSeeds:
        """The conditioning by a common seed."""
        return SharedSeeds(self.shared_seeds)

    def check_h(self, h: Factorization, otherwise: str = "") -> None:
        """Refuses to leave h without a gradient.

        Args:
            h: the data factorisation, built.
            otherwise: the setting to recommend instead of the weight, followed by a comma.

        Raises:
            UserError: h has parameters, but no loss to learn from.
        """
        if self.reconstruction_weight == 0 and any(True for _ in h.parameters()):
            raise UserError(
                "data_factorization would get no gradient: set algorithm.reconstruction_weight above 0, "
                f"{otherwise}or data_factorization=concat"
            )


@dataclass(frozen=True)
class Denoised:
    """One noising and denoising of a batch.

    Attributes:
        k: `[B]` diffusion steps in 1..K.
        noise: `[B, N, ...]`, the agents' true noise eps_i.
        condition: `[B, N, C]`, the agents' own conditioning.
        prediction: `[B, N, ...]`, eps_theta_i(x_i^k, k); joined already by an f that has no inverse.
        x0: `[B, N, ...]`, the one-step estimate of the data, clipped (see `clip_with_way_back`).
        clipped_share: scalar, share of the estimate's diffusing entries that the clip changed.
    """

    k: Tensor
    noise: Tensor
    condition: Tensor
    prediction: Tensor
    x0: Tensor
    clipped_share: Tensor

    def heldout_errors(self, weight: Tensor, spec: DatasetSpec) -> dict[str, Tensor]:
        """The noise error by tag, unweighted by f: `heldout/diffusion` of all agents, and one value per agent.

        Args:
            weight: `[B, N, ...]`, weight of each entry.
            spec: provides the agents' names.
        """
        error = weight * (self.prediction - self.noise).square()
        entries = (0, *range(2, error.dim()))
        own = error.sum(entries) / weight.sum(entries).clamp_min(1e-12)
        names = [f"heldout/diffusion_{agent.name}" for agent in spec.environment.agents]
        return {"heldout/diffusion": error.sum()} | dict(zip(names, own.unbind(), strict=True))


@dataclass(frozen=True)
class Diffused:
    """The part of a batch that diffuses.

    Attributes:
        x0: `[B, N, ...]`, data, normalised.
        condition: `[B, N, C]`, each agent's conditioning.
        mask: bool, broadcasts against x0, False for data that are known or padding.
        weight: shaped as x0, weights of a masked mean whose divisor is a constant of the batch.
    """

    x0: Tensor
    condition: Tensor
    mask: Tensor
    weight: Tensor


def entry_weight(mask: Tensor, like: Tensor, alive: Tensor | None) -> Tensor:
    """Weights of a masked mean; the divisor depends on the batch's shape only and is the same on every rank.

    Args:
        mask: broadcasts against `[N, D]`, False for entries that do not count.
        like: `[B, N, D]`.
        alive: `[B, N]` bool, or None.
    """
    mask = mask.expand(like.shape[1:])
    weight = mask.to(like.dtype) / (like.shape[0] * mask.sum())
    return weight.expand_as(like) if alive is None else weight * alive[..., None]
