"""Assignment of shared seeds to data, by denoising errors that are balanced given the joint conditioning."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.parts.diffused import Diffused, Parts
from dof_lightning.diffusion.chain import ConditionalDenoiser
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.diffusion.seed_conditioning import NO_SEEDS, SharedSeeds
from dof_lightning.errors import UserError
from dof_lightning.factorization.base import Factorization
from dof_lightning.sharding import FsdpRole

ERROR_DRAWS = 2  # noisings of each sample on which the seeds are compared; even, because one half checks the other
TEMPERATURE = 0.1  # temperature of the assignment, in standard deviations of the errors' differences
BALANCING_STEPS = 20
LEARNING_RATE = 1e-3  # learning rate of the potential


@dataclass(frozen=True)
class Assignment:
    """The shared seeds that a batch is learned with.

    Attributes:
        seeds: how agents receive them.
        shared_seed: z, `[B, N]` int64, the same for all agents of a sample; None without shared seeds.
        losses: scalars by tag: `loss/shared_seed` trains the potential; `shared_seed/gain` is the share of the
            denoising error that the better seed saves over a random one, chosen and measured on different noise: 0
                if the seeds mean nothing.
    """

    seeds: SharedSeeds = NO_SEEDS
    shared_seed: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    def tell(self, condition: Tensor) -> Tensor:
        """Extends a condition `[B, N, C]` to `[B, N, C + M]`; returns it unchanged without shared seeds."""
        return self.seeds.tell(condition, self.shared_seed)

    def add_loss(self, loss: Tensor) -> Tensor:
        """Adds the potential's loss to the loss; the two have separate parameters."""
        return loss if self.shared_seed is None else loss + self.losses["loss/shared_seed"]


@dataclass(frozen=True)
class Noising:
    """The functions that add noise to data and predict it.

    Attributes:
        denoiser: `(x, k, condition) -> eps`.
        schedule: the noise schedule.
        draw_noise: called with shape, generator and dtype.
        pin: called with x and the data that do not diffuse.
    """

    denoiser: ConditionalDenoiser
    schedule: Schedule
    draw_noise: Callable[..., Tensor]
    pin: Callable[..., Tensor]


class SharedSeedAssignment(nn.Module):
    """q(z | x_tot, o_tot): the E-step of a mixture of products whose parts are the denoisers given z (ours).

    q is proportional to exp((b_z(o_tot) - e_z(x_tot) / s) / T), with e_z the joint denoising error given z, on the
    same noise for all z, and s the standard deviation of the errors' differences over the batch. Execution draws z
    uniformly, whatever is observed, so q must be uniform *given the joint conditioning*: were it uniform over the batch
    only, z could reveal to agent i what its teammates observe, which would be false at execution. The potential b is a
    network that descends on E[sum_z (q_z - 1/M) b_z(o_tot)], q held constant: the gradient of the semi-dual of entropic
    optimal transport from the data at each conditioning to the uniform law, whose fixed point is E[q | o_tot] = 1/M.
    Sinkhorn steps over the batch balance what the potential has not learned yet. None of this is used at execution.

    Args:
        shared_seeds: M.
        known_dim: N times F, number of entries of the joint conditioning.
        hidden: width of the potential's hidden layer. It is small, because a potential that remembers every sample
            would leave no information in z.
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"

    def __init__(self, shared_seeds: int, known_dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.seeds = SharedSeeds(shared_seeds)
        last = nn.Linear(hidden, shared_seeds)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.potential = nn.Sequential(nn.Linear(known_dim, hidden), nn.SiLU(), last)

    def forward(self, noising: Noising, known: Tensor, diffused: Diffused, generator: torch.Generator) -> Assignment:
        """Draws each sample's seed from q.

        Args:
            noising: the noising with the denoisers that are trained.
            known: `[B, N, F]`, everything that the agents together know before they act.
            diffused: the data, given the agents' own conditioning without a seed.
            generator: draws noise and seeds.
        """
        return self.draw(joint_errors(noising, self.seeds, diffused, generator), known, generator)

    def draw(self, errors: Tensor, known: Tensor, generator: torch.Generator) -> Assignment:
        """Draws seeds from errors `[S, B, M]` (see `joint_errors`) and from what is known, `[B, N, F]`."""
        potential = self.potential(known.flatten(1).float())
        mean = errors.mean(0)
        difference = mean - mean.mean(1, keepdim=True)
        scale = difference.square().mean().sqrt().clamp_min(1e-12)
        share = balance((potential.detach() - difference / scale) / TEMPERATURE)
        shared_seed = torch.multinomial(share, 1, generator=generator).expand(-1, known.shape[1])
        loss = ((share - 1 / share.shape[1]) * potential).sum(1).mean()
        losses = {"loss/shared_seed": loss, "shared_seed/gain": _gain(errors)}
        return Assignment(self.seeds, shared_seed, losses)

    def parameter_group(self) -> ParameterGroup:
        """The parameter group of the potential."""
        return ParameterGroup("shared_seed", (self,), LEARNING_RATE, None)


@torch.no_grad()
def joint_errors(noising: Noising, seeds: SharedSeeds, diffused: Diffused, generator: torch.Generator) -> Tensor:
    """`[S, B, M]` denoising errors at S steps k, one in each S-th of 1..K, on the same noise for all M seeds.

    Arguments are those of `SharedSeedAssignment.forward`.
    """
    x0, draws, count = diffused.x0, ERROR_DRAWS, seeds.width
    size, per_row, last = len(x0), [1] * (x0.dim() - 1), noising.schedule.steps
    place = torch.rand(draws, size, generator=generator, device=x0.device)
    place = (torch.arange(draws, device=x0.device)[:, None] + place) / draws
    k = 1 + (place * last).long().clamp(max=last - 1).flatten()
    repeated = x0.repeat(draws, *per_row)
    noise = noising.draw_noise(repeated.shape, generator, x0.dtype)
    noised = noising.pin(noising.schedule.add_noise(repeated, noise, k), repeated)
    each = torch.arange(count, device=x0.device).repeat_interleave(len(k))[:, None].expand(-1, x0.shape[1])
    conditions = seeds.tell(diffused.condition.repeat(draws * count, 1, 1), each)
    prediction = noising.denoiser(noised.repeat(count, *per_row), k.repeat(count), conditions).to(x0.dtype)
    error = (prediction.reshape(count, *noise.shape) - noise).square()
    error = (diffused.weight.repeat(draws, *per_row) * error).flatten(2).sum(2)
    return error.reshape(count, draws, size).movedim(0, 2)


def balance(logits: Tensor) -> Tensor:
    """Sinkhorn (Cuturi, 2013): probabilities `[B, M]` whose mean over the batch is 1/M for each seed.

    Args:
        logits: `[B, M]`.
    """
    logits = logits.float()
    for _ in range(BALANCING_STEPS):
        share = logits.softmax(1)
        logits = logits - (share.mean(0) * share.shape[1]).clamp_min(1e-6).log()
    return logits.softmax(1)


def build_assignment(seeds: SharedSeeds, known_dim: int, parts: Parts) -> SharedSeedAssignment | None:
    """Builds the module that assigns shared seeds to samples; None without shared seeds.

    Args:
        seeds: the number of shared seeds, if any.
        known_dim: see `SharedSeedAssignment`.
        parts: with shared seeds, they have to be a product given z.

    Raises:
        UserError: they are not a product; names the key and the fix.
    """
    if seeds.count is None:
        return None
    for group in ("noise_factorization", "data_factorization"):
        part: Factorization = getattr(parts, group)
        if not part.satisfies_igd:
            raise UserError(
                f"algorithm.shared_seeds={seeds.count} makes a mixture of products, but {group}: "
                f"{type(part).__name__} is no product (satisfies_igd); choose {group}=concat or wconcat, or "
                "algorithm.shared_seeds=null"
            )
    if not parts.denoiser.local_execution:
        raise UserError(
            f"algorithm.shared_seeds={seeds.count} makes a mixture of products, but the agents meet in denoiser: "
            f"{type(parts.denoiser).__name__}; choose a denoiser without attention over agents, or "
            "algorithm.shared_seeds=null"
        )
    return SharedSeedAssignment(seeds.count, known_dim)


def _gain(errors: Tensor) -> Tensor:
    """Share of the error that is saved by the seed that was best on other noise."""
    halves = errors[::2].mean(0), errors[1::2].mean(0)
    chosen = sum(
        measured_on.gather(1, chosen_on.argmin(1, keepdim=True)).mean()
        for chosen_on, measured_on in (halves, halves[::-1])
    )
    return 1 - chosen / torch.stack([half.mean() for half in halves]).sum().clamp_min(1e-12)
