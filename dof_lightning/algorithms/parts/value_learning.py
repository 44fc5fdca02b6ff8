"""Rules by which the critics of a team learn, shared by every method with critics.

Each rule, combined with an improvement of the actors (`extraction`), is a method: TD with Q's gradient is TD3+BC,
conservative values with Q's gradient are MACQL and with the best of a search OMAR, values of the data's actions with
weighted cloning are MAICQ. Gradients reach the critics only: next actions are constants.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dof_lightning.actors.actions import ActionCodec
from dof_lightning.algorithms.parts.critics import (
    CentralCritic,
    MixedCritic,
    Situation,
    TeamCritic,
)
from dof_lightning.algorithms.parts.losses import at_least_float32, batch_weights, weighted_mean
from dof_lightning.batch import EpisodeBatch


@dataclass(frozen=True)
class Experience:
    """One row of a batch and the row that followed, in the form that critics learn from.

    Attributes:
        batch: provides rewards, ends and masks.
        now: its current row.
        data: `[B, N, A]`, the data's actions in that row.
        following: the row after it.
        next_actions: returns `[B, N, A]`, the averaged actors' actions in the following row, without a gradient; called
            at most once.
        next_data: returns `[B, N, A]`, the data's actions in the following row.
    """

    batch: EpisodeBatch
    now: Situation
    data: Tensor
    following: Situation
    next_actions: Callable[[], Tensor]
    next_data: Callable[[], Tensor]

    @property
    def counts(self) -> Tensor:
        """`[B, N]` bool, the agents whose transition from the current row is real."""
        return self.batch.transition_mask[:, :, self.batch.history]

    @property
    def ends(self) -> Tensor:
        """`[B, 1]` bool, True if the episode really ends with this row's transition."""
        return self.batch.terminated[:, self.batch.history, None]


class ValueLearning(nn.Module, ABC):
    """A rule by which critics, separate, mixed or joint, learn from experience."""

    @abstractmethod
    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by tag: the critics minimise the sum of those below `loss/`, the others are for curves.

        Args:
            critic: the team's critic; its online weights get the gradient.
            seen: the experience that it learns from.
            generator: the source of all random numbers.
        """

    @torch.no_grad()
    def advantage(self, critic: TeamCritic, now: Situation, data: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """A_i = min Q(s, a) - E_u min Q(s, (u, a_-i)), u from the actors: the gain of agent i's data action.

        With separate critics that is Q_i(o_i, a_i) - E_u Q_i(o_i, u), with those of a team the counterfactual
        baseline of COMA (Foerster et al., 2018). It is computed by the target critics, in their unit.

        Args:
            critic: of the team.
            now: B rows.
            data: `[B, N, A]`, what the data did there.
            draw: returns `[M, B, N, A]`, the averaged actors' actions in those rows.

        Returns:
            `[B, N]`.
        """
        taken = critic.next_values(now, data).amin(0)
        return taken - critic.next_values(now, draw(), data).amin(0).mean(0)


class TemporalDifference(ValueLearning):
    """(Q - y)^2 with y = r + gamma (1 - d) min(Q1, Q2)(o', a'), a' the averaged actors' (Fujimoto et al., 2018)."""

    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """See the class and the base class."""
        return critic.losses(seen.batch, seen.now, seen.data, seen.following, seen.next_actions())


class Conservative(TemporalDifference):
    """TD error + alpha (log ∫ exp Q(o_i, u) du - Q(o_i, a_i)): conservative Q-learning (Kumar et al., 2020, eq. 4).

    Agent i alone takes u, while all others take the data's actions (Shao et al., 2023: counterfactual CQL), so that the
    gap of a team value does not grow with the number of agents. With separate critics, and with a plain sum, that is
    the gap of each agent's own Q_i, as in OMAR's comparison (Pan et al., 2022).

    Args:
        weight: alpha, for rewards in their original unit.
        samples: number of uniform actions per row from which the integral is estimated.
        codec: the actions' codec.
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

        The exponents are in the rewards' original unit, as in the paper, and the gap in the critics' (times
        `reward_scale`): a softmax of scaled values would be nearly a mean, and push high values down hardly more than
        low ones.

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


class Implicit(ValueLearning):
    """(Q - y)^2 with y = r + gamma (1 - d) w Q(o', a'), a' the data's next action (ICQ, Yang et al., 2021, eq. 8).

    No action outside the data is ever rated; w is the batch weight of Q(o', a'). The last step before a time limit has
    no next action in the data and does not train the critics; that before an agent's death trains its own one, as
    nothing follows. Windows have to hold the next row.

    Args:
        temperature: temperature of the weights, in the critics' unit; None means that all are 1.
    """

    def __init__(self, temperature: float | None) -> None:
        super().__init__()
        self.temperature = temperature

    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """See the class and the base class."""
        acts, ends = seen.batch.transition_mask[:, :, seen.batch.history + 1], seen.ends
        goes_on = seen.counts & acts & ~ends
        if critic.online.of_team:
            acts = acts.any(1, keepdim=True)
            goes_on = seen.counts.any(1, keepdim=True) & acts & ~ends
        elif seen.following.alive is not None:
            ends = ends | ~seen.following.alive
        with torch.no_grad():
            following = critic.next_values(seen.following, seen.next_data()).amin(0)
            weight = goes_on if self.temperature is None else batch_weights(following, goes_on, self.temperature)
            target = critic.in_sample_target(seen.batch, seen.now, weight * following)
        return critic.regression(seen.now, seen.data, target, seen.counts & (ends | acts))


class Expectile(ValueLearning):
    """(Q - r - gamma (1 - d) V(o'))^2, V an expectile of Q: implicit Q-learning (Kostrikov et al., 2022, eqs. 5, 6).

    V minimises E[|tau - 1(Q < V)| (Q - V)^2] with Q the smaller target twin at the data's action. It is separate, mixed
    or joint as the critics are, and receives zeros in place of an action.

    Args:
        values: V.
        expectile: tau; 0.5 gives the mean of Q over the data's actions, and towards 1 it becomes their maximum.
    """

    def __init__(self, values: MixedCritic | CentralCritic, expectile: float) -> None:
        super().__init__()
        self.values = values
        self.expectile = expectile

    def losses(self, critic: TeamCritic, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """See the class and the base class; `loss/state_value` is eq. 5, for each of V's twins, whose mean counts."""
        with torch.no_grad():
            following = ~seen.ends * self._of(seen.following, seen.data).mean(0)
            target = critic.in_sample_target(seen.batch, seen.now, following)
        losses = critic.regression(seen.now, seen.data, target, seen.counts)
        above = critic.next_values(seen.now, seen.data).amin(0) - self._of(seen.now, seen.data)
        counts = seen.counts.any(1, keepdim=True) if critic.online.of_team else seen.counts
        error = (self.expectile - (above < 0).to(above)).abs() * above.square()
        return losses | {"loss/state_value": (counts * error).sum(0).mean()}

    @torch.no_grad()
    def advantage(self, critic: TeamCritic, now: Situation, data: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Q - V (eq. 7); for a team's value, the same for all agents, because only the joint action was good or bad."""
        above = critic.next_values(now, data).amin(0) - self._of(now, data).mean(0)
        return above.expand(data.shape[:2])

    def _of(self, situation: Situation, like: Tensor) -> Tensor:
        """V's twins, `[2, B, N]` or `[2, B, 1]`, in at least float32: they count by their small distance from Q."""
        with torch.autocast(like.device.type, enabled=False):
            situation = replace(situation, condition=at_least_float32(situation.condition))
            values: Tensor = self.values(situation, torch.zeros_like(at_least_float32(like)))
        return values
