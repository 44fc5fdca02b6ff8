"""The values of a team: their inputs, and the online and target critics that learn them."""

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dof_lightning.algorithms.parts.losses import at_least_float32
from dof_lightning.batch import EpisodeBatch
from dof_lightning.diffusion.seed_conditioning import SharedSeeds
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.critic import AgentwiseCritic, JointCritic
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.normalization import Normalizer
from dof_lightning.sharding import FsdpRole, whole


@dataclass(frozen=True)
class Situation:
    """One row of a batch, as actors and critics see it.

    Attributes:
        condition: `[B, N, C]`, agent i's own conditioning.
        alive: `[B, N]` bool, None if agents never die.
        legal: `[B, N, A]` bool, None if everything is legal.
        state: `[B, S]`, None if there is no global state.
    """

    condition: Tensor
    alive: Tensor | None = None
    legal: Tensor | None = None
    state: Tensor | None = None

    @classmethod
    def of(cls, batch: EpisodeBatch, row: int, normalizer: Normalizer) -> "Situation":
        """Takes a row of a batch; agents condition on their normalised observations."""
        return cls(
            condition=normalizer.normalize(batch.observations[:, :, row]),
            alive=None if batch.alive is None else batch.alive[:, :, row],
            legal=None if batch.legal is None else batch.legal[:, :, row],
            state=None if batch.state is None else batch.state[:, row],
        )

    def given(self, seeds: SharedSeeds, shared_seed: Tensor | None) -> "Situation":
        """The row with a shared seed `[B, N]` in every condition and in the state; unchanged without shared seeds."""
        if shared_seed is None:
            return self
        state = None if self.state is None else seeds.tell(self.state[:, None], shared_seed[:, :1])[:, 0]
        return replace(self, condition=seeds.tell(self.condition, shared_seed), state=state)

    def repeat(self, times: int) -> "Situation":
        """Repeats all rows `times` times, one copy after another: `[times * B, N, ...]`."""
        return Situation(
            condition=self.condition.repeat(times, 1, 1),
            alive=None if self.alive is None else self.alive.repeat(times, 1),
            legal=None if self.legal is None else self.legal.repeat(times, 1, 1),
            state=None if self.state is None else self.state.repeat(times, 1),
        )


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

    def forward(self, situation: Situation, actions: Tensor, data: Tensor | None = None) -> Tensor:
        """Values under both twins; dead agents have no weight, nor do their observations.

        Args:
            situation: B rows.
            actions: `[B, N, A]`, or `[M, B, N, A]` if `data` is given.
            data: `[B, N, A]`; if given, the result is `[2, M, B, N]`: the value if agent i alone takes its own of the
                M actions, while all others take the data's actions.
        """
        if data is not None:
            return self._of_deviations(situation, actions, data)
        return self._mixed(self._own(situation, actions), situation)

    def _own(self, situation: Situation, actions: Tensor) -> Tensor:
        """Both twins of Q_i(o_i, a_i), `[2, B, N]`."""
        values: Tensor = self.critic(situation.condition, actions)
        return values if situation.alive is None else values * situation.alive

    def _mixed(self, values: Tensor, situation: Situation) -> Tensor:
        """Q_tot `[..., B, 1]` of values `[..., B, N]`; without a mixer, the values."""
        if self.mixer is None:
            return values
        condition, alive = situation.condition, situation.alive
        state = (condition if alive is None else condition * alive[..., None]).flatten(1)
        times = values[..., 0].numel() // len(state)
        mixed: Tensor = self.mixer(values.flatten(0, -2)[..., None], state.repeat(times, 1))
        return mixed.reshape(*values.shape[:-1], -1)

    def _of_deviations(self, situation: Situation, actions: Tensor, data: Tensor) -> Tensor:
        draws, size, n_agents = actions.shape[:3]
        own = self._own(situation.repeat(draws), actions.flatten(0, 1)).reshape(-1, draws, size, n_agents)
        if self.mixer is None:
            return own
        alone = torch.eye(n_agents, dtype=torch.bool, device=own.device)[:, None]
        others = self._own(situation, data)[:, None, None]
        return self._mixed(torch.where(alone, own[:, :, None], others), situation)[..., 0].transpose(2, 3)


class CentralCritic(nn.Module):
    """Twin Q(s, a_1..a_N), and a head of twin Q_i(o_i, a_i) by which an agent can rank its own candidates.

    Args:
        joint: critic of the joint action, given the global state if the dataset has one, else all observations.
        critic: the local head; None means none.

    Shapes:
        actions `[B, N, A]`, result `[2, B, 1]`

    Attributes:
        of_team: True: the result is one value of the team.
    """

    of_team = True

    def __init__(self, joint: JointCritic, critic: AgentwiseCritic | None) -> None:
        super().__init__()
        self.joint = joint
        self.critic = critic

    def forward(self, situation: Situation, actions: Tensor, data: Tensor | None = None) -> Tensor:
        """Values of the joint action under both twins; dead agents' inputs are hidden; see `MixedCritic`."""
        if data is not None:
            return self._of_deviations(situation, actions, data)
        condition, alive = situation.condition, situation.alive
        if alive is not None:
            condition, actions = condition * alive[..., None], actions * alive[..., None]
        context = condition.flatten(1) if situation.state is None else situation.state.to(condition.dtype)
        values: Tensor = self.joint(context, actions)
        return values

    def _of_deviations(self, situation: Situation, actions: Tensor, data: Tensor) -> Tensor:
        draws, size, n_agents = actions.shape[:3]
        alone = torch.eye(n_agents, dtype=torch.bool, device=data.device)[:, None, :, None]
        joint = torch.where(alone, actions[:, None], data)  # [M, N, B, N, A]
        values: Tensor = self(situation.repeat(draws * n_agents), joint.flatten(0, 2))
        return values.reshape(-1, draws, n_agents, size).transpose(2, 3)

    def head_loss(self, situation: Situation, actions: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Squared distance of each agent's own twins from the joint ones; E[Q(s, a) | o_i, a_i] minimises it.

        Args:
            situation: a row.
            actions: `[B, N, A]`; no gradient reaches them.
            values: `[2, B, 1]`, the joint critic's values of them, held constant.
            mask: `[B, N]`, 0 where a row does not count.
        """
        assert self.critic is not None
        own = self.critic(situation.condition, actions.detach())
        error = mask * (own.to(values.dtype) - values.detach()).square()
        return error.sum(0).mean()


class TeamCritic(nn.Module):
    """Online and target critics.

    Args:
        values: separate, mixed or joint critics.
        discount: gamma.
        reward_scale: factor on rewards, so that values are of order one to ten.
    """

    def __init__(self, values: MixedCritic | CentralCritic, discount: float, reward_scale: float) -> None:
        super().__init__()
        self.online = values
        self.target = ema_copy(values)
        self.discount = discount
        self.reward_scale = reward_scale

    @property
    def local(self) -> AgentwiseCritic | None:
        """The averaged twins Q_i(o_i, a_i) that rank an agent's candidates; None if only a joint Q is learned.

        If weights are sharded, all ranks must call this together.
        """
        return cast(MixedCritic | CentralCritic, whole(self.target)).critic

    def losses(
        self, batch: EpisodeBatch, now: Situation, actions: Tensor, following: Situation, next_actions: Tensor
    ) -> dict[str, Tensor]:
        """The twins' squared TD error, with mean value and target in the rewards' original unit, and the head's error.

        Args:
            batch: provides rewards, terminations and masks of the current row.
            now: the current row.
            actions: `[B, N, A]`, the data's.
            following: the row after it.
            next_actions: `[B, N, A]`, the actors' actions in that row.
        """
        next_values = self.next_values(following, next_actions)
        counts = batch.transition_mask[:, :, batch.history]
        losses = self.regression(now, actions, self._target(batch, now, next_values), counts)
        if isinstance(self.online, CentralCritic) and self.online.critic is not None:
            # Candidates come from the actors: their actions in the next row are rated for the TD target anyway.
            there = counts if following.alive is None else counts & following.alive
            goes_on = there & ~batch.terminated[:, batch.history, None]
            actors = self.online.head_loss(following, next_actions, next_values, goes_on.to(next_values))
            losses["loss/local_head"] = 0.5 * (losses["loss/local_head"] + actors)
        return losses

    def regression(self, now: Situation, actions: Tensor, target: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """The twins' squared distance from a target, with both means in the rewards' unit, and the head's error.

        Args:
            now: B rows.
            actions: `[B, N, A]`, taken there.
            target: `[B, N]` (`[B, 1]` of a team), a constant.
            counts: `[B, N]` bool; the one team value counts as long as any agent does.
        """
        values = at_least_float32(self.online(now, actions))
        mask = (counts.any(1, keepdim=True) if self.online.of_team else counts).to(values)
        error = mask * (values - target).square()
        losses = {
            "loss/critic": error.sum(0).mean(),
            "q/value": values.mean() / self.reward_scale,
            "q/target": target.mean() / self.reward_scale,
        }
        if isinstance(self.online, CentralCritic) and self.online.critic is not None:
            losses["loss/local_head"] = self.online.head_loss(now, actions, values, counts.to(values))
        return losses

    def frozen_values(self, situation: Situation, actions: Tensor) -> Tensor:
        """min(Q1, Q2) `[B, N]` (`[B, 1]` of a team), differentiable in the actions and constant in the parameters."""
        online = whole(self.online)
        constants = {name: parameter.detach() for name, parameter in online.named_parameters()}
        values = functional_call(online, constants, (situation, actions))
        return at_least_float32(cast(Tensor, values)).amin(0)

    def update_target(self, rate: float) -> None:
        """Target <- (1 - rate) target + rate online."""
        ema_update(self.target, self.online, 1.0 - rate)

    @torch.no_grad()
    def next_values(self, following: Situation, actions: Tensor, data: Tensor | None = None) -> Tensor:
        """Both target twins `[2, B, N]` (`[2, B, 1]` of a team), in at least float32; with data, see `MixedCritic`."""
        with torch.autocast(actions.device.type, enabled=False):
            following = replace(following, condition=at_least_float32(following.condition))
            others = () if data is None else (at_least_float32(data),)
            values: Tensor = self.target(following, at_least_float32(actions), *others)
        return values

    def in_sample_target(self, batch: EpisodeBatch, now: Situation, following: Tensor) -> Tensor:
        """Reward + gamma V, V `[B, N]` (`[B, 1]` of a team) what follows is worth, 0 at a real end."""
        return self._rewards(batch) + self.discount * following

    @torch.no_grad()
    def _target(self, batch: EpisodeBatch, now: Situation, next_values: Tensor) -> Tensor:
        """Reward + gamma (1 - d) min(Q1, Q2)(o', a'); d is a real end, never a time limit."""
        rewards = self._rewards(batch)
        goes_on = (~batch.terminated[:, batch.history, None]).to(rewards)
        return rewards + self.discount * goes_on * next_values.amin(0)

    def _rewards(self, batch: EpisodeBatch) -> Tensor:
        """Scaled rewards `[B, N]`; of a team `[B, 1]`, the mean over all agents, including dead ones' shares."""
        rewards = batch.rewards[:, :, batch.history] * self.reward_scale
        return rewards.mean(1, keepdim=True) if self.online.of_team else rewards
