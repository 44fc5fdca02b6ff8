"""What a team's value is made of: the agents' own values, their mixture, or one value of the joint action."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.critic import AgentwiseCritic, JointCritic
from dof_lightning.sharding import FsdpRole


@dataclass(frozen=True)
class Situation:
    """One row of a batch, as actors and critics see it.

    Attributes:
        condition: `[B, N, C]`, agent i's own conditioning.
        alive: `[B, N]` bool, None where agents never die.
        legal: `[B, N, A]` bool, None where everything is legal.
        state: `[B, S]`, None where there is no global state.
    """

    condition: Tensor
    alive: Tensor | None = None
    legal: Tensor | None = None
    state: Tensor | None = None


class MixedCritic(nn.Module):
    """Twin Q_i of every agent, and the mixer over them if there is one.

    Args:
        critic: twin Q_i(o_i, a_i).
        mixer: from Q_1..Q_N to Q_tot; None keeps agents separate.

    Shapes:
        actions `[B, N, A]`, result `[2, B, N]`, or `[2, B, 1]` with a mixer

    Attributes:
        of_team: whether the result is one value of the team.
    """

    fsdp_role: ClassVar[FsdpRole] = "unit"

    def __init__(self, critic: AgentwiseCritic, mixer: ValueMixer | None) -> None:
        super().__init__()
        self.critic = critic
        self.mixer = mixer
        self.of_team = mixer is not None

    def forward(self, situation: Situation, actions: Tensor) -> Tensor:
        """Values of the agents' actions under both twins; dead agents count nothing, nor does what they see."""
        condition, alive = situation.condition, situation.alive
        values: Tensor = self.critic(condition, actions)
        if alive is not None:
            values, condition = values * alive, condition * alive[..., None]
        if self.mixer is None:
            return values
        twins, state = len(values), condition.flatten(1)
        mixed: Tensor = self.mixer(values.flatten(0, 1)[..., None], state.repeat(twins, 1))
        return mixed.reshape(twins, -1, 1)


class CentralCritic(nn.Module):
    """Twin Q(s, a_1..a_N), and a head of twin Q_i(o_i, a_i) by which an agent can rank its own candidates.

    Args:
        joint: of the joint action, in the global state where the dataset has one, else given all observations.
        critic: the local head; None without one.

    Shapes:
        actions `[B, N, A]`, result `[2, B, 1]`

    Attributes:
        of_team: True, the result is one value of the team.
    """

    of_team = True

    def __init__(self, joint: JointCritic, critic: AgentwiseCritic | None) -> None:
        super().__init__()
        self.joint = joint
        self.critic = critic

    def forward(self, situation: Situation, actions: Tensor) -> Tensor:
        """Values of the joint action under both twins; what dead agents see and do is hidden."""
        condition, alive = situation.condition, situation.alive
        if alive is not None:
            condition, actions = condition * alive[..., None], actions * alive[..., None]
        context = condition.flatten(1) if situation.state is None else situation.state.to(condition.dtype)
        values: Tensor = self.joint(context, actions)
        return values

    def head_loss(self, situation: Situation, actions: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Squared distance of each agent's own twins from the joint ones: E[Q(s, a) | o_i, a_i] minimises it.

        Args:
            situation: a row.
            actions: `[B, N, A]`; no gradient reaches them.
            values: `[2, B, 1]`, the joint critic's there, held constant.
            mask: `[B, N]`, 0 where a row does not count.
        """
        assert self.critic is not None
        own = self.critic(situation.condition, actions.detach())
        error = mask * (own.to(values.dtype) - values.detach()).square()
        return error.sum(0).mean()


def at_least_float32(values: Tensor) -> Tensor:
    """Lifts half precision, keeps float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
