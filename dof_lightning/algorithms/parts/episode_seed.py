"""Assignment of shared seeds to whole episodes, by M habits that are learned beside the actor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dof_lightning.algorithms.base import ParameterGroup
from dof_lightning.algorithms.parts.shared_seed import Assignment, balance
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.diffusion.seed_conditioning import SharedSeeds
from dof_lightning.networks.agentwise import AgentwiseLinear, AgentwiseMLP
from dof_lightning.sharding import FsdpRole
from dof_lightning.spec import DatasetSpec

SeedOf = Literal["window", "episode"]
ROWS = 8  # rows of an episode on which the habits are compared
LEARNED = 64  # episodes of a batch from which the habits learn: all of them would be half the cost of an update
HIDDEN = (64, 64)
LEARNING_RATE = 3e-3  # habits must be found while the actor's own networks still learn the coarse of it


@dataclass(frozen=True)
class EpisodeRows:
    """Some R rows of each sample's episode.

    Attributes:
        observations: `[B, N, R, O]`, normalised.
        actions: `[B, N, R, A]`, encoded.
        counted: `[B, N, R]` bool, False where an agent did not act.
    """

    observations: Tensor
    actions: Tensor
    counted: Tensor

    def slice(self, which: slice) -> "EpisodeRows":
        """The rows of some of the samples."""
        return EpisodeRows(self.observations[which], self.actions[which], self.counted[which])


class EpisodeSeedAssignment(nn.Module):
    """q(z | episode): the E-step of a mixture of products with one z per episode (ours).

    Habit z is N functions mu_{z,i}(o_i), one per agent, that learn by regression what agent i does in the episodes of
    seed z: with e_z = sum_{rows, i} ||a_i - mu_{z,i}(o_i)||^2, they descend on E[sum_z q_z e_z], q held constant, and

        q_z  ~  exp(-e_z / (2 s^2)),        s^2: the mean squared error of an action's entry,

    balanced over the batch (Sinkhorn), since execution draws z uniformly. So q is the posterior of a mixture of M teams
    with Gaussian actions, given the *whole* episode: no window has a seed of its own. Denoising errors, which
    `SharedSeedAssignment` compares, carry little information about a window, and even less early in training, when the
    split is made. Habits are separate networks, so that a habit describes what one policy does, not what separates most
    windows.

    mu is an affine map plus an MLP whose last layer starts at zero, so teams are first distinguished by their simple
    differences. MLPs alone may split episodes by team and start instead ("to the left landmark" for "to landmark 0"):
    as consistent for the habits, but a function of the start that the actor hardly learns (docs/method/shared_seed.md).

    There is no potential of the observations (see `SharedSeedAssignment`). None of this is used at execution.

    Args:
        shared_seeds: M.
        spec: the dataset's spec.
    """

    fsdp_role: ClassVar[FsdpRole] = "replicate"
    entries: Tensor

    def __init__(self, shared_seeds: int, spec: DatasetSpec) -> None:
        super().__init__()
        self.seeds = SharedSeeds(shared_seeds)
        self.register_buffer("entries", spec.environment.action_mask().sum(1), persistent=False)
        sizes = (spec.observation_dim, *HIDDEN, spec.action_dim)
        self.affine = AgentwiseLinear(spec.n_agents, sizes[0], sizes[-1], ensemble=shared_seeds)
        self.habits = AgentwiseMLP(spec.n_agents, sizes, activation="silu", ensemble=shared_seeds)
        for parameter in self.habits.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, rows: EpisodeRows, generator: torch.Generator) -> Assignment:
        """Draws each sample's seed from q.

        Args:
            rows: rows of the samples' episodes.
            generator: draws the seeds.
        """
        learned = rows.slice(slice(LEARNED))
        errors = self.errors(learned)
        with torch.no_grad():
            constant = torch.cat([errors, self.errors(rows.slice(slice(LEARNED, None)))])
        variance = (constant.mean(1).sum() / self._counted_entries(rows)).clamp_min(1e-12)
        share = balance(-(constant - constant.mean(1, keepdim=True)) / (2 * variance))
        seed = torch.multinomial(share, 1, generator=generator).expand(-1, rows.counted.shape[1])
        loss = (share[:LEARNED] * errors).sum() / self._counted_entries(learned)
        gain = 1 - (share * constant).sum() / constant.mean(1).sum().clamp_min(1e-12)
        return Assignment(self.seeds, seed, {"loss/shared_seed": loss, "shared_seed/gain": gain})

    def assign(
        self,
        batch: EpisodeBatch,
        normalize: Callable[[Tensor], Tensor],
        encode: Callable[..., Tensor],
        generator: torch.Generator,
    ) -> Assignment:
        """Draws the seeds of the episodes that a batch of `whole_episodes` contains.

        Args:
            batch: the episodes.
            normalize: normalises observations.
            encode: encodes actions `[B, N, R, ...]`, with the dtype and device of `like`.
            generator: draws rows and seeds.
        """
        seen, done, acted = gather_rows(batch, rows_of_episodes(batch, generator))
        observations = normalize(seen)
        actions = encode(done, like=observations)
        assignment: Assignment = self(EpisodeRows(observations, actions, acted), generator)
        return assignment

    def errors(self, rows: EpisodeRows) -> Tensor:
        """`[B, M]`: e_z of each sample's rows."""
        size, agents, count, _ = rows.observations.shape
        seen = rows.observations.transpose(0, 1).flatten(1, 2).repeat(self.seeds.width, 1, 1)
        expected = self.affine(seen) + self.habits.agents_first(seen)
        expected = expected.reshape(self.seeds.width, agents, size, count, rows.actions.shape[-1])
        error = (expected - rows.actions.transpose(0, 1)).square().sum(-1) * rows.counted.transpose(0, 1)
        return error.sum((1, 3)).T

    def _counted_entries(self, rows: EpisodeRows) -> Tensor:
        """The number of entries of actions in all rows that count, padding left out; at least 1."""
        return (rows.counted.sum((0, 2)) * self.entries).sum().clamp_min(1)

    def parameter_group(self) -> ParameterGroup:
        """The parameter group of the habits."""
        return ParameterGroup("shared_seed", (self,), LEARNING_RATE, None)


def whole_episodes(horizon: int) -> Window:
    """The window that holds a whole episode of at most `horizon` steps, wherever in it the current row is."""
    return Window(history=horizon - 1, horizon=horizon)


def rows_of_episodes(batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
    """`[B, R]` rows of a batch of `whole_episodes`: one drawn from every R-th of each episode's steps."""
    inside = batch.valid[:, :-1] & (batch.valid[:, 1:] | batch.terminated)
    first, length = inside.byte().argmax(1), inside.sum(1)
    drawn = torch.rand(len(inside), ROWS, generator=generator, device=inside.device)
    place = (torch.arange(ROWS, device=inside.device) + drawn) / ROWS * length[:, None]
    return first[:, None] + torch.minimum(place.long(), (length - 1).clamp_min(0)[:, None])


def gather_rows(batch: EpisodeBatch, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Observations, actions and whether agents were alive, `[B, N, R, ...]`, at rows `[B, R]` of a batch."""
    every = torch.arange(len(rows), device=rows.device)[:, None]
    seen, done = (values.transpose(1, 2)[every, rows].transpose(1, 2) for values in (batch.observations, batch.actions))
    alive = torch.ones_like(seen[..., 0], dtype=torch.bool)
    return seen, done, alive if batch.alive is None else batch.alive.transpose(1, 2)[every, rows].transpose(1, 2)
