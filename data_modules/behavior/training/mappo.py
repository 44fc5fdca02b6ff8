"""Online MAPPO (Yu et al. 2022), vectorised over battles and agents: actors on own observations, one V(s)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_modules.behavior.choosing import ChoosingActors, ChoosingBehavior
from dof_lightning.envs.base import VectorEnv
from dof_lightning.seeding import derive_seed, make_generator


@dataclass(frozen=True)
class MAPPOSettings:
    """Settings of the online trainer.

    Attributes:
        n_battles: episodes played between two changes of the weights.
        epochs: passes over those episodes.
        minibatches: parts of a pass; Adam makes one step per part.
        discount: gamma.
        trace_decay: lambda of the advantages (GAE).
        ratio_clip: largest relative change of an action's probability from that under the policy that played.
        entropy_weight: weight of the policy's entropy.
        learning_rate: Adam's learning rate for actors and critic at the start; it falls linearly to a tenth.
        gradient_clip: largest gradient norm of the actors, and of the critic.
        critic_hidden: width of the critic's two hidden layers.
    """

    n_battles: int = 256
    epochs: int = 4
    minibatches: int = 4
    discount: float = 0.99
    trace_decay: float = 0.95
    ratio_clip: float = 0.2
    entropy_weight: float = 0.01
    learning_rate: float = 1e-3
    gradient_clip: float = 0.5
    critic_hidden: int = 128


@dataclass(frozen=True)
class Round:
    """The results of one round of battles, played with the weights from before the update.

    Attributes:
        return_mean: episode return.
        win_rate: share of battles won.
    """

    return_mean: float
    win_rate: float


@dataclass
class Battles:
    """Steps of many episodes: one row for each of the M steps that were really played.

    Attributes:
        observations: `[M, N, O]`.
        legal: `[M, N, A]`.
        state: `[M, S]`.
        actions: `[M, N]`.
        log_probability: `[M, N]`, log-probability of the actions when they were drawn.
        advantage, target: `[M]`, of V(s).
    """

    observations: Tensor
    legal: Tensor
    state: Tensor
    actions: Tensor
    log_probability: Tensor
    advantage: Tensor
    target: Tensor

    def select(self, rows: Tensor) -> "Battles":
        """Returns some of the steps."""
        return Battles(**{name: tensor[rows] for name, tensor in vars(self).items()})


class MAPPO:
    """Actors that share a network and a centralised critic, trained online for the team's reward.

    Args:
        env: the environment; it must have discrete actions, report the legal ones, and have a global state.
        settings: hyper-parameters.
        seed: seed of initial weights, environments and noise.
    """

    def __init__(self, env: VectorEnv, settings: MAPPOSettings, seed: int) -> None:
        self.env, self.settings, self.seed = env, settings, seed
        spec, width = env.spec, settings.critic_hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "mappo-weights"))
            self.actors = ChoosingActors(spec.n_agents, spec.observation_dim, spec.action_dim)
            self.critic = nn.Sequential(
                nn.Linear(spec.state_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
            )
        self.optimizer = torch.optim.Adam(
            [*self.actors.parameters(), *self.critic.parameters()], lr=settings.learning_rate, fused=True
        )
        self.behavior = ChoosingBehavior(self.actors, spec)
        self.updates = 0

    def train(self, total_updates: int) -> Iterator[Round]:
        """Plays and learns in turn; yields each round's result; `updates` counts the rounds."""
        while self.updates < total_updates:
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * (1 - 0.9 * self.updates / total_updates)
            battles, played = self._play()
            self._learn(battles)
            self.updates += 1
            yield played

    @torch.no_grad()
    def _play(self) -> tuple[Battles, Round]:
        """Plays whole episodes with the current weights."""
        generator = make_generator(self.seed, "mappo-battles", self.updates)
        observations = self.env.reset(torch.randint(2**62, (self.settings.n_battles,), generator=generator))
        active = torch.ones(len(observations), dtype=torch.bool)
        rows: dict[str, list[Tensor]] = {name: [] for name in ("active", "reward", "terminated", "won", *_PLAYED)}
        while bool(active.any()):
            legal, state = _required(self.env.legal), _required(self.env.state)
            log_probabilities = self.actors(observations, legal)
            noise = self.behavior.draw_noise(len(observations), generator)
            actions = (log_probabilities + noise).argmax(-1)
            chosen = log_probabilities.gather(-1, actions[..., None]).squeeze(-1)
            result = self.env.step(actions)
            reward, won = result.rewards.mean(1), _required(result.info.won)
            step = (active, reward, result.terminated, won, observations, legal, state, actions, chosen)
            for kept, tensor in zip(rows.values(), step, strict=True):
                kept.append(tensor)
            active = active & ~(result.terminated | result.truncated)
            observations = result.observations
        played = {name: torch.stack(tensors) for name, tensors in rows.items()}
        counted = played["active"]
        returns, won = (played["reward"] * counted).sum(0), (played["won"] & counted).any(0)
        summary = Round(float(returns.mean()), float(won.double().mean()))
        return self._with_advantages(played, _required(self.env.state)), summary

    def _with_advantages(self, played: dict[str, Tensor], last_state: Tensor) -> Battles:
        """Generalised advantage estimates; the value of the state after a time limit counts."""
        states = torch.cat([played["state"], last_state[None]])
        values = self.critic(states).squeeze(-1)
        active, settings = played["active"], self.settings
        following = torch.where(played["terminated"], 0.0, values[1:])
        error = played["reward"] + settings.discount * following - values[:-1]
        advantage, ahead = torch.zeros_like(error), torch.zeros_like(error[0])
        for t in range(len(error) - 1, -1, -1):
            ahead = torch.where(active[t], error[t] + settings.discount * settings.trace_decay * ahead, 0.0)
            advantage[t] = ahead
        steps = {name: played[name][active] for name in _PLAYED}
        return Battles(**steps, advantage=advantage[active], target=(advantage + values[:-1])[active])

    def _learn(self, battles: Battles) -> None:
        generator = make_generator(self.seed, "mappo-order", self.updates)
        spread = battles.advantage.std().clamp(min=1e-6)
        battles.advantage = (battles.advantage - battles.advantage.mean()) / spread
        for _ in range(self.settings.epochs):
            order = torch.randperm(len(battles.advantage), generator=generator)
            for rows in order.chunk(self.settings.minibatches):
                self._step(battles.select(rows))

    def _step(self, part: Battles) -> None:
        log_probabilities = self.actors(part.observations, part.legal)
        ratio = (log_probabilities.gather(-1, part.actions[..., None]).squeeze(-1) - part.log_probability).exp()
        clipped = ratio.clamp(1 - self.settings.ratio_clip, 1 + self.settings.ratio_clip)
        advantage = part.advantage[:, None]
        surrogate = torch.minimum(ratio * advantage, clipped * advantage).mean()
        entropy = -(log_probabilities.exp() * log_probabilities.masked_fill(~part.legal, 0.0)).sum(-1).mean()
        value_loss = functional.mse_loss(self.critic(part.state).squeeze(-1), part.target)
        self.optimizer.zero_grad()
        torch.autograd.backward(value_loss - surrogate - self.settings.entropy_weight * entropy)
        for module in (self.actors, self.critic):
            nn.utils.clip_grad_norm_(module.parameters(), self.settings.gradient_clip)
        self.optimizer.step()


_PLAYED = ("observations", "legal", "state", "actions", "log_probability")


def _required(tensor: Tensor | None) -> Tensor:
    """Returns a tensor of an environment's step that the learner needs; refuses None."""
    if tensor is None:
        raise ValueError("MAPPO needs an environment that reports legal actions, a global state and victories")
    return tensor
