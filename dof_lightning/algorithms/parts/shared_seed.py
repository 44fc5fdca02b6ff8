"""Which shared seed the data may have been made with: by denoising errors, balanced given the joint conditioning."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.diffusion.guidance import ConditionalDenoiser
from dof_lightning.diffusion.schedule import Schedule
from dof_lightning.diffusion.seed_conditioning import with_shared_seed
from dof_lightning.errors import UserError
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.sharding import FsdpRole

ERROR_DRAWS = 2  # noisings of each sample that the seeds are compared on; even: one half checks the other
TEMPERATURE = 0.1  # of the assignment, in standard deviations of the errors' differences
BALANCING_STEPS = 20
LEARNING_RATE = 1e-3  # of the potential


@dataclass(frozen=True)
class Assignment:
    """The seeds that a batch is learned with.

    Attributes:
        shared_seed: z, `[B, N]` int64, the same for all agents of a sample; None where there are no shared seeds.
        shared_seeds: M, or None.
        losses: scalars by tag: `loss/shared_seed` trains the potential; `shared_seed/gain` is the share of the
            denoising error that the better seed saves over a random one, chosen and measured on different noise: 0
            where the seeds mean nothing.
    """

    shared_seed: Tensor | None = None
    shared_seeds: int | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    def tell(self, condition: Tensor) -> Tensor:
        """`[B, N, C + M]` of a condition `[B, N, C]`, or itself where there are no shared seeds."""
        return with_shared_seed(condition, self.shared_seed, self.shared_seeds)

    def add_loss(self, loss: Tensor) -> Tensor:
        """The loss with the potential's; both have parameters of their own."""
        return loss if self.shared_seed is None else loss + self.losses["loss/shared_seed"]


@dataclass(frozen=True)
class Chain:
    """What noises data and predicts the noise.

    Attributes:
        denoiser: `(x, k, condition) -> eps`.
        schedule: of the noise.
        draw_noise: called with shape, generator and dtype.
        pin: called with x and `known`, the data that do not diffuse.
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
    only, z could tell agent i what its teammates observe, and execution would tell it lies. The potential b is a
    network that descends on E[sum_z (q_z - 1/M) b_z(o_tot)], q held constant: the gradient of the semi-dual of entropic
    optimal transport from the data at each conditioning to the uniform law, whose fixed point is E[q | o_tot] = 1/M.
    Sinkhorn steps over the batch balance what the potential has not learned yet. Nothing of this acts.

    Args:
        shared_seeds: M.
        known_dim: N times F, of the joint conditioning.
        hidden: width of the potential's hidden layer. Few numbers: one that remembers every sample would make z say
            nothing.
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"

    def __init__(self, shared_seeds: int, known_dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.shared_seeds = shared_seeds
        last = nn.Linear(hidden, shared_seeds)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.potential = nn.Sequential(nn.Linear(known_dim, hidden), nn.SiLU(), last)

    def forward(
        self,
        chain: Chain,
        known: Tensor,
        x0: Tensor,
        condition: Tensor,
        weight: Tensor,
        generator: torch.Generator,
    ) -> Assignment:
        """Draws each sample's seed from q.

        Args:
            chain: with the denoisers to be.
            known: `[B, N, F]`, all that the agents together know before they act.
            x0: `[B, N, ...]` data.
            condition: `[B, N, C]`, agent i's own conditioning, without a seed.
            weight: `[B, N, ...]`, of the data's entries in the error.
            generator: draws noise and seeds.
        """
        return self.draw(joint_errors(chain, self.shared_seeds, x0, condition, weight, generator), known, generator)

    def draw(self, errors: Tensor, known: Tensor, generator: torch.Generator) -> Assignment:
        """Seeds by errors `[S, B, M]` (see `joint_errors`) and what is known `[B, N, F]`."""
        potential = self.potential(known.flatten(1).float())
        mean = errors.mean(0)
        difference = mean - mean.mean(1, keepdim=True)
        scale = difference.square().mean().sqrt().clamp_min(1e-12)
        share = balance((potential.detach() - difference / scale) / TEMPERATURE)
        shared_seed = torch.multinomial(share, 1, generator=generator).expand(-1, known.shape[1])
        loss = ((share - 1 / self.shared_seeds) * potential).sum(1).mean()
        losses = {"loss/shared_seed": loss, "shared_seed/gain": _gain(errors)}
        return Assignment(shared_seed, self.shared_seeds, losses)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The potential."""
        return [ParameterGroup("shared_seed", (self,), LEARNING_RATE, None)]


@torch.no_grad()
def joint_errors(
    chain: Chain, shared_seeds: int, x0: Tensor, condition: Tensor, weight: Tensor, generator: torch.Generator
) -> Tensor:
    """`[S, B, M]` denoising errors at S steps k, one in each S-th of 1..K, on the same noise for all M seeds.

    Arguments are those of `SharedSeedAssignment.forward`.
    """
    draws, size, per_row = ERROR_DRAWS, len(x0), [1] * (x0.dim() - 1)
    place = torch.rand(draws, size, generator=generator, device=x0.device)
    place = (torch.arange(draws, device=x0.device)[:, None] + place) / draws
    k = 1 + (place * chain.schedule.steps).long().clamp(max=chain.schedule.steps - 1).flatten()
    repeated = x0.repeat(draws, *per_row)
    noise = chain.draw_noise(repeated.shape, generator, x0.dtype)
    noised = chain.pin(chain.schedule.add_noise(repeated, noise, k), known=repeated)
    each = torch.arange(shared_seeds, device=x0.device).repeat_interleave(len(k))[:, None].expand(-1, x0.shape[1])
    told = with_shared_seed(condition.repeat(draws * shared_seeds, 1, 1), each, shared_seeds)
    prediction = chain.denoiser(noised.repeat(shared_seeds, *per_row), k.repeat(shared_seeds), told).to(x0.dtype)
    error = (prediction.reshape(shared_seeds, *noise.shape) - noise).square()
    error = (weight.repeat(draws, *per_row) * error).flatten(2).sum(2)
    return error.reshape(shared_seeds, draws, size).movedim(0, 2)


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


def check_shared_seeds(shared_seeds: int | None, f: Factorization, h: Factorization, denoiser: Agentwise) -> None:
    """Refuses numbers that are none, and models that are no product given z.

    Raises:
        UserError: names the key and the fix.
    """
    if shared_seeds is None:
        return
    if shared_seeds < 2:
        raise UserError(f"algorithm.shared_seeds={shared_seeds} must be at least 2, or null for no shared seed")
    for group, part in (("noise_factorization", f), ("data_factorization", h)):
        if not part.satisfies_igd:
            raise UserError(
                f"algorithm.shared_seeds={shared_seeds} makes a mixture of products, but {group}: "
                f"{type(part).__name__} is no product (satisfies_igd); choose {group}=concat or wconcat, or "
                "algorithm.shared_seeds=null"
            )
    if not denoiser.local_execution:
        raise UserError(
            f"algorithm.shared_seeds={shared_seeds} makes a mixture of products, but the agents meet in denoiser: "
            f"{type(denoiser).__name__}; choose a denoiser without attention over agents, or "
            "algorithm.shared_seeds=null"
        )


def _gain(errors: Tensor) -> Tensor:
    """Share of the error that is saved by the seed which was best on other noise."""
    halves = errors[::2].mean(0), errors[1::2].mean(0)
    chosen = sum(
        measured_on.gather(1, chosen_on.argmin(1, keepdim=True)).mean()
        for chosen_on, measured_on in (halves, halves[::-1])
    )
    return 1 - chosen / torch.stack([half.mean() for half in halves]).sum().clamp_min(1e-12)
