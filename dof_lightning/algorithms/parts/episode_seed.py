"""Which shared seed a whole episode may have been made with: by the denoising errors of its windows, remembered."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.algorithms.base import over_ranks
from dof_lightning.algorithms.parts.diffused import Diffused, Parts
from dof_lightning.algorithms.parts.shared_seed import (
    Assignment,
    Noising,
    SharedSeedAssignment,
    balance,
    check_mixture,
    joint_errors,
    seed_gain,
    standardised,
)
from dof_lightning.diffusion.seed_conditioning import SharedSeeds
from dof_lightning.errors import UserError
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec

MEMORY = 0.9  # of an episode's evidence, kept at each batch that it appears in: old denoisers say little
TEMPERATURE = 1.0  # of the assignment, in the unit of the evidence


class EpisodeSeedAssignment(nn.Module):
    """q(z | episode): the E-step of a mixture of products in which z is drawn once an episode (ours).

    A table holds each episode's evidence for each seed: the sum, fading by `MEMORY`, of -e_z / s over the windows that
    were learned from, with e_z the joint denoising error given z, less its mean over the seeds, and s the standard
    deviation of those differences over the batch. q is proportional to exp(evidence / T), balanced over the episodes of
    a batch (Sinkhorn), since execution draws z uniformly; z is drawn once for all windows of an episode in a batch.

    There is no potential of the observations (see `SharedSeedAssignment`): in the middle of an episode they may well
    say which z it has, and must not be made to say nothing.

    Args:
        shared_seeds: M.
        episodes: how many the dataset has; their ids are 0..episodes-1.
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"
    evidence: Tensor

    def __init__(self, shared_seeds: int, episodes: int) -> None:
        super().__init__()
        self.seeds = SharedSeeds(shared_seeds)
        self.register_buffer("evidence", torch.zeros(episodes, shared_seeds))
        self._learned: list[tuple[Tensor, Tensor]] = []  # since the last step of the optimiser

    def forward(
        self,
        noising: Noising,
        known: Tensor,
        diffused: Diffused,
        generator: torch.Generator,
        episode_id: Tensor | None = None,
    ) -> Assignment:
        """Draws the seed of each episode of a batch from q.

        Args:
            noising: with the denoisers to be.
            known: not read.
            diffused: the data, given the agents' own conditioning without a seed.
            generator: draws noise and seeds.
            episode_id: `[B]` int64; None for held-out windows: each has its own evidence only, and none is kept.

        Raises:
            UserError: an id is outside of the table.
        """
        errors = joint_errors(noising, self.seeds, diffused, generator)
        return self.draw(errors, episode_id, known.shape[1], generator)

    def draw(self, errors: Tensor, episode_id: Tensor | None, n_agents: int, generator: torch.Generator) -> Assignment:
        """Seeds by errors `[S, B, M]` (see `joint_errors`) for N agents; other arguments are those of `forward`."""
        found = -standardised(errors)
        if episode_id is None:
            seed = torch.multinomial(balance(found / TEMPERATURE), 1, generator=generator)
            return Assignment(self.seeds, seed.expand(-1, n_agents), {"shared_seed/gain": seed_gain(errors)})
        self._check(episode_id)
        first, before = first_of_each(episode_id), self.evidence[episode_id]
        share = balance((MEMORY * before + summed_by_first(found, first)) / TEMPERATURE)
        seed = torch.multinomial(share, 1, generator=generator)[first]
        self._learned.append((episode_id, found))
        by_the_past = errors.mean(0).gather(1, before.argmax(1, keepdim=True)).mean()
        gain = 1 - by_the_past / errors.mean().clamp_min(1e-12)
        return Assignment(self.seeds, seed.expand(-1, n_agents), {"shared_seed/gain": gain})

    @torch.no_grad()
    def after_step(self) -> None:
        """Writes what all ranks learned into the table; all ranks must call this together."""
        if not self._learned:
            return
        ids, found = (over_ranks(torch.cat(part)) for part in zip(*self._learned, strict=True))
        self._learned.clear()
        total = summed_by_first(found, first_of_each(ids))
        self.evidence[ids] = MEMORY * self.evidence[ids] + total

    def _check(self, episode_id: Tensor) -> None:
        episodes = len(self.evidence)
        outside = (episode_id < 0) | (episode_id >= episodes)
        if bool(outside.any()):
            raise UserError(
                f"algorithm.shared_seed_of=episode: the dataset has an episode_id of "
                f"{int(episode_id[outside][0])}, its recipe says {episodes} episodes, so ids are 0 to {episodes - 1}; "
                "choose algorithm.shared_seed_of=window"
            )


def first_of_each(ids: Tensor) -> Tensor:
    """`[B]` int64: for each of `ids` `[B]` the first row that has the same."""
    return (ids[:, None] == ids).byte().argmax(1)


def summed_by_first(values: Tensor, first: Tensor) -> Tensor:
    """`[B, M]`: the sum of `values` `[B, M]` over the rows of the same episode, the same number in each of them."""
    same = (first[:, None] == first).to(values.dtype)
    return (same @ values)[first]


def build_assignment(
    seeds: SharedSeeds, spec: DatasetSpec, known_dim: int, parts: Parts
) -> SharedSeedAssignment | EpisodeSeedAssignment | None:
    """What assigns shared seeds to samples; None where there are none.

    Args:
        seeds: how many there are, if any, and of what.
        spec: the dataset's; its recipe says how many episodes there are.
        known_dim: F, of what each agent knows (see `SharedSeedAssignment`).
        parts: with shared seeds, they have to be a product given z.

    Raises:
        UserError: they are none, or the episodes are unknown; names the key and the fix.
    """
    if seeds.count is None:
        return None
    check_mixture(seeds.count, parts)
    if seeds.of == "window":
        return SharedSeedAssignment(seeds.count, spec.n_agents * known_dim)
    episodes = spec.recipe.get("episodes")
    if not isinstance(episodes, int):
        raise UserError(
            f"algorithm.shared_seed_of=episode: the recipe of {spec.name} does not say how many episodes it has "
            "(only sets that were collected here do); choose algorithm.shared_seed_of=window"
        )
    return EpisodeSeedAssignment(seeds.count, episodes)
