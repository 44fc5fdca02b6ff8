"""Twin critics of a team: separate per agent, or mixed into Q_tot; what the TD target and the Q-gradient need."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.sharding import FsdpRole, whole
from dof_lightning.spec import DatasetSpec


class MixedCritic(nn.Module):
    """Twin Q_i of every agent, and the mixer over them if there is one.

    Args:
        critic: twin Q_i(o_i, a_i).
        mixer: from Q_1..Q_N to Q_tot; None keeps agents separate.

    Shapes:
        condition `[B, N, C]`, actions `[B, N, A]`, alive `[B, N]` bool or None, result `[2, B, N]`, or `[2, B, 1]`
        with a mixer
    """

    fsdp_role: ClassVar[FsdpRole] = "unit"

    def __init__(self, critic: AgentwiseCritic, mixer: ValueMixer | None) -> None:
        super().__init__()
        self.critic = critic
        self.mixer = mixer

    def forward(self, condition: Tensor, actions: Tensor, alive: Tensor | None = None) -> Tensor:
        """Values of the agents' actions under both twins; dead agents count nothing, nor does what they see."""
        values: Tensor = self.critic(condition, actions)
        if alive is not None:
            values, condition = values * alive, condition * alive[..., None]
        if self.mixer is None:
            return values
        twins, state = len(values), condition.flatten(1)
        mixed: Tensor = self.mixer(values.flatten(0, 1)[..., None], state.repeat(twins, 1))
        return mixed.reshape(twins, -1, 1)


class TeamCritic(nn.Module):
    """Online and target critics.

    Args:
        spec: the dataset's spec.
        critic: called with the spec and `condition_dim`.
        mixer: called with the spec and `state_dim`, conditions on the joint observation; None for separate critics.
        discount: gamma.
        reward_scale: factor on rewards, so that values are of order one to ten.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        critic: Callable[..., AgentwiseCritic],
        mixer: Callable[..., ValueMixer] | None,
        discount: float,
        reward_scale: float,
    ) -> None:
        super().__init__()
        joint_dim = spec.n_agents * spec.observation_dim
        self.online = MixedCritic(
            critic(spec, condition_dim=spec.observation_dim),
            None if mixer is None else mixer(spec, state_dim=joint_dim),
        )
        self.target = ema_copy(self.online)
        self.discount = discount
        self.reward_scale = reward_scale

    def losses(
        self, batch: EpisodeBatch, condition: Tensor, actions: Tensor, following: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The twins' squared TD error, with the mean value and target in the rewards' own unit.

        Args:
            batch: for rewards, terminations and masks of the current row.
            condition: `[B, N, C]`.
            actions: `[B, N, A]`, the data's.
            following: next condition `[B, N, C]` and the actors' next actions `[B, N, A]`.
        """
        alive = _alive(batch, batch.history)
        values = at_least_float32(self.online(condition, actions, alive))
        target = self._target(batch, *following)
        valid = batch.transition_mask[:, :, batch.history]
        # With a mixer the one team value counts as long as any agent is there.
        mask = (valid if self.online.mixer is None else valid.any(1, keepdim=True)).to(values)
        error = mask * (values - target).square()
        return {
            "loss/critic": error.sum(0).mean(),
            "q/value": values.mean() / self.reward_scale,
            "q/target": target.mean() / self.reward_scale,
        }

    def frozen_values(self, condition: Tensor, actions: Tensor, alive: Tensor | None = None) -> Tensor:
        """min(Q1, Q2) `[B, N]` (`[B, 1]` mixed), differentiable in the actions and constant in the parameters."""
        online = whole(self.online)
        constants = {name: parameter.detach() for name, parameter in online.named_parameters()}
        values = functional_call(online, constants, (condition, actions, alive))
        return at_least_float32(cast(Tensor, values)).amin(0)

    def update_target(self, rate: float) -> None:
        """Target <- (1 - rate) target + rate online."""
        ema_update(self.target, self.online, 1.0 - rate)

    @torch.no_grad()
    def _target(self, batch: EpisodeBatch, condition: Tensor, actions: Tensor) -> Tensor:
        """Reward + gamma (1 - d) min(Q1, Q2)(o', a') in at least float32; d is a real end, never a time limit."""
        with torch.autocast(condition.device.type, enabled=False):
            condition, actions = at_least_float32(condition), at_least_float32(actions)
            following = self.target(condition, actions, _alive(batch, batch.history + 1)).amin(0)
        now = batch.history
        alive = _alive(batch, now)
        rewards = batch.rewards[:, :, now] * self.reward_scale
        rewards = rewards if alive is None else rewards * alive
        if self.online.mixer is not None:
            rewards = rewards.mean(1, keepdim=True)
        goes_on = (~batch.terminated[:, now, None]).to(rewards)
        return rewards + self.discount * goes_on * following


def _alive(batch: EpisodeBatch, row: int) -> Tensor | None:
    return None if batch.alive is None else batch.alive[:, :, row]


def at_least_float32(values: Tensor) -> Tensor:
    """Lifts half precision, keeps float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
