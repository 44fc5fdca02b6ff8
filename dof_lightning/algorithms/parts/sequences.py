"""A batch of sequences as value-based methods with a memory see it."""

from dataclasses import dataclass

from torch import Tensor

from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.normalization import Normalizer


@dataclass(frozen=True)
class Sequences:
    """Rows of episodes, each with the row after it.

    Attributes:
        batch: where they come from.
        observations: `[B, N, T+1, O]`, normalised.
        allowed: `[B, N, T+1, A]` bool, legal choices.
        state: `[B, T+1, S]`, global, or all observations side by side; what dead agents see is hidden.
    """

    batch: EpisodeBatch
    observations: Tensor
    allowed: Tensor
    state: Tensor

    @classmethod
    def of(cls, batch: EpisodeBatch, normalizer: Normalizer, action_mask: Tensor) -> "Sequences":
        """Of a batch of windows without history; `action_mask` is `[N, A]`, False where an action is padding."""
        observations = normalizer.normalize(batch.observations)
        allowed = allowed_choices(batch, action_mask)
        if batch.state is not None:
            return cls(batch, observations, allowed, batch.state)
        seen = observations if batch.alive is None else observations * batch.alive[..., None]
        return cls(batch, observations, allowed, seen.transpose(1, 2).flatten(2))

    def now(self) -> "Rows":
        """Rows 0 to T - 1."""
        alive = None if self.batch.alive is None else self.batch.alive[:, :, :-1]
        return Rows(self.state[:, :-1], alive)

    def following(self) -> "Rows":
        """Rows 1 to T."""
        alive = None if self.batch.alive is None else self.batch.alive[:, :, 1:]
        return Rows(self.state[:, 1:], alive)

    @property
    def real(self) -> Tensor:
        """`[B, T, 1]` bool: a team's row counts as long as any of its agents is there."""
        return self.batch.transition_mask.any(1)[..., None]

    def mean(self, values: Tensor) -> Tensor:
        """Of `[B, T, 1]` over all rows, those that are not real as 0: in a loss every real row weighs the same."""
        return (values * self.real).mean()

    def mean_of_real(self, values: Tensor) -> Tensor:
        """Of `[B, T, 1]` over the real rows alone: what values are, for people."""
        return (values * self.real).sum() / self.real.sum().clamp_min(1)


@dataclass(frozen=True)
class Rows:
    """What a mixer is told of some rows.

    Attributes:
        state: `[B, T, S]`.
        alive: `[B, N, T]` bool; None where agents never die.
    """

    state: Tensor
    alive: Tensor | None

    def mix(self, mixer: ValueMixer, values: Tensor) -> Tensor:
        """Q_tot `[..., B, T, 1]` of values `[..., B, N, T]`; dead agents count nothing."""
        values = values if self.alive is None else values * self.alive
        batch, agents, rows = values.shape[-3:]
        flat = values.transpose(-2, -1).reshape(-1, batch * rows, agents, 1)
        mixed = mixer.each(flat, self.state.flatten(0, 1).to(values.dtype))
        return mixed.reshape(*values.shape[:-3], batch, rows, 1)


def allowed_choices(batch: EpisodeBatch, action_mask: Tensor) -> Tensor:
    """`[B, N, T+1, A]` bool: choices that are legal, and no padding (`action_mask` `[N, A]`)."""
    everything = action_mask[:, None].expand(*batch.observations.shape[:-1], -1)
    return everything if batch.legal is None else batch.legal & everything


def chosen(values: Tensor, actions: Tensor) -> Tensor:
    """`[...]`: of values `[..., A]`, those of the actions `[...]`."""
    return values.gather(-1, actions[..., None]).squeeze(-1)
