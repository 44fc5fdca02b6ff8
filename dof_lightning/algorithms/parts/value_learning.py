"""How the critics of a team learn: one seam that everything with critics shares.

With another improvement of the actors (`extraction`) each of these is another method: TD with Q's gradient is TD3+BC,
conservative values with it are MACQL, with the best of a search OMAR, values of the data's actions with weighted
cloning MAICQ. Gradients reach the critics only: next actions are constants.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dof_lightning.actors.actions import ActionCodec
from dof_lightning.algorithms.parts.critics import Situation, TeamCritic, at_least_float32
from dof_lightning.algorithms.parts.losses import weighted_mean
from dof_lightning.batch import EpisodeBatch


@dataclass(frozen=True)
class Experience:
    """One row of a batch and what followed, as critics learn from it.

    Attributes:
        batch: for rewards, ends and masks.
        now: its current row.
        data: `[B, N, A]`, what the data did there.
        following: the row after it.
        next_actions: gives `[B, N, A]`, what the averaged actors do there, without a gradient; asked at most once.
    """

    batch: EpisodeBatch
    now: Situation
    data: Tensor
    following: Situation
    next_actions: Callable[[], Tensor]

    @property
    def counts(self) -> Tensor:
        """`[B, N]` bool, whose transition from the current row is real."""
        return self.batch.transition_mask[:, :, self.batch.history]


class ValueLearning(nn.Module, ABC):
    """A rule by which critics, separate, mixed or joint, learn from experience."""

    @abstractmethod
    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by tag: the critics minimise the sum of those below `loss/`, the others are for curves.

        Args:
            critic: of the team; its online weights get the gradient.
            seen: what it learns from.
            generator: draws what is random.
        """


class TemporalDifference(ValueLearning):
    """(Q - y)^2 with y = r + gamma (1 - d) min(Q1, Q2)(o', a'), a' the averaged actors' (Fujimoto et al., 2018)."""

    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """See the class and the base class."""
        return critic.losses(seen.batch, seen.now, seen.data, seen.following, seen.next_actions())


class Conservative(TemporalDifference):
    """TD error + alpha (log ∫ exp Q(o_i, u) du - Q(o_i, a_i)): conservative Q-learning (Kumar et al., 2020, eq. 4).

    Agent i alone takes u, while all others do what the data's did (Shao et al., 2023: counterfactual CQL), so that the
    gap of a team value does not grow with the number of agents. With separate critics, and with a plain sum, that is
    the gap of each agent's own Q_i, as in OMAR's comparison (Pan et al., 2022).

    Args:
        weight: alpha, for rewards in their own unit.
        samples: uniform actions of each row behind the integral.
        codec: of the actions.
        action_mask: `[N, A]` bool, False where padded.
    """

    action_mask: Tensor

    def __init__(self, weight: float, samples: int, codec: ActionCodec, action_mask: Tensor) -> None:
        super().__init__()
        self.weight, self.samples, self.codec = weight, samples, codec
        self.register_buffer("action_mask", action_mask, persistent=False)

    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """See the class and the base class; `loss/penalty` is the weighted gap."""
        losses = super().losses(critic, seen, generator)
        gap = self.gap(critic, seen.now, seen.data, seen.counts.to(seen.data.dtype), generator)
        return losses | {"loss/penalty": self.weight * critic.reward_scale * gap}

    def gap(
        self, critic: TeamCritic, now: Situation, data: Tensor, weight: Tensor, generator: torch.Generator
    ) -> Tensor:
        """E[log ∫ exp Q(o_i, u) du - Q(o_i, a_i)], summed over the twins.

        The exponents are in the rewards' own unit, as in the paper, and the gap in the critics' (times `reward_scale`):
        a softmax of scaled values would be nearly a mean, and push down what is high hardly more than what is low.

        Args:
            critic: of the team.
            now: B rows.
            data: `[B, N, A]`, what the data did there.
            weight: `[B, N]`, 0 where a row does not count.
            generator: draws the actions u.
        """
        drawn, log_size = self.codec.draw_anywhere(self.samples, data, self.action_mask, now.legal, generator)
        scale, anywhere = critic.reward_scale, at_least_float32(critic.online(now, drawn, data))
        soft = scale * ((anywhere / scale + log_size).logsumexp(1) - math.log(self.samples))
        there = at_least_float32(critic.online(now, data))
        return weighted_mean((soft - there).sum(0), weight)
