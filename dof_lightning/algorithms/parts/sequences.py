"""Batches of sequences in the form that value-based methods with a memory use."""

from dataclasses import dataclass

from torch import Tensor

from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.normalization import Normalizer


@dataclass(frozen=True)
class Sequences:
    """Rows of episodes, each with the row after it.

    Attributes:
        batch: the batch that they come from.
        observations: `[B, N, T+1, O]`, normalised.
        allowed: `[B, N, T+1, A]` bool, legal choices.
        state: `[B, T+1, S]`, global, or all observations side by side; dead agents' observations are hidden.
    """

    batch: EpisodeBatch
    observations: Tensor
    allowed: Tensor
    state: Tensor

    @classmethod
    def of(cls, batch: EpisodeBatch, normalizer: Normalizer, action_mask: Tensor) -> "Sequences":
        """Makes sequences of a batch of windows without history; `action_mask` is `[N, A]`, False for padding."""
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
        """`[B, T, 1]` bool: a team's row counts as long as any of its agents is alive."""
        return self.batch.transition_mask.any(1)[..., None]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `[B, T, 1]` over all rows, unreal ones as 0: in a loss every real row has the same weight."""
        return (values * self.real).mean()

    def mean_of_real(self, values: Tensor) -> Tensor:
        """The mean of `[B, T, 1]` over the real rows alone, for values that people read."""
        return (values * self.real).sum() / self.real.sum().clamp_min(1)


@dataclass(frozen=True)
class Rows:
    """A mixer's inputs beside the values, for some rows.

    Attributes:
        state: `[B, T, S]`.
        alive: `[B, N, T]` bool; None if agents never die.
    """

    state: Tensor
    alive: Tensor | None

    def mix(self, mixer: ValueMixer, values: Tensor) -> Tensor:
        """Q_tot `[..., B, T, 1]` of values `[..., B, N, T]`; dead agents have no weight."""
        values = values if self.alive is None else values * self.alive
        batch, agents, rows = values.shape[-3:]
        flat = values.transpose(-2, -1).reshape(-1, batch * rows, agents, 1)
        mixed = mixer.each(flat, self.state.flatten(0, 1).to(values.dtype))
        return mixed.reshape(*values.shape[:-3], batch, rows, 1)


def allowed_choices(batch: EpisodeBatch, action_mask: Tensor) -> Tensor:
    """`[B, N, T+1, A]` bool: choices that are legal and not padding (`action_mask` `[N, A]`)."""
    everything = action_mask[:, None].expand(*batch.observations.shape[:-1], -1)
    return everything if batch.legal is None else batch.legal & everything


def chosen(values: Tensor, actions: Tensor) -> Tensor:
    """Selects from values `[..., A]` those of the actions `[...]`; the result is `[...]`."""
    return values.gather(-1, actions[..., None]).squeeze(-1)
