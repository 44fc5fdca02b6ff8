"""The decentralisation certificate: agent i's actions must not change when the other agents' inputs do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dof_lightning.envs.base import VectorEnv
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.run import (
    Rollout,
    Spectator,
    device_of,
    draw_shared_seed,
    evaluating,
    evaluation_seeds,
    run_rollout,
)
from dof_lightning.seeding import make_generator

EPISODES = 16  # episodes of a final evaluation's certificate, if none are specified
MOST_PAIRS = 128  # of (episode, agent); of more, a sample is tried: the cost of all grows with N squared


@dataclass(frozen=True)
class Certificate:
    """The result of a test whether the agents act alone.

    Attributes:
        passed: every action stayed bit-identical.
        max_abs_delta: largest change of an agent's action when only other agents' inputs changed; 0 if passed.
        observes_rewards: agents received their own rewards, which may contain information about teammates.
        pairs: number of (episode, agent) pairs that were tried, every agent at least once.
        all_pairs: number of all pairs, E x N.
    """

    passed: bool
    max_abs_delta: float
    observes_rewards: bool = False
    pairs: int = 0
    all_pairs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the usual ones are left out: agents receive no rewards, all pairs are tried."""
        unusual: dict[str, Any] = {"observes_rewards": True} if self.observes_rewards else {}
        if self.pairs < self.all_pairs:
            unusual |= {"pairs": self.pairs, "all_pairs": self.all_pairs}
        return {"passed": self.passed, "max_abs_delta": self.max_abs_delta} | unusual


def certify(
    policy: DecentralizedPolicy,
    env: VectorEnv,
    seed: int,
    n_episodes: int = EPISODES,
    most_pairs: int = MOST_PAIRS,
    hears: Callable[[float], None] | None = None,
    before_step: Callable[[], None] | None = None,
) -> Certificate:
    """Changes the other agents' inputs and checks that agent i's actions stay the same.

    Episodes are rolled out first. Then agents act in them a second time, each with its own observations, legal actions,
    rewards and noise, while the others, from the first step on and hence also in their memory, receive those of other
    episodes with noise added. A shared seed is the same both times, for all. Agent i must act exactly as before.
    Both run as batches of the same shape with agent i in the same row, so nothing but a dependence can change a
    bit.

    Args:
        policy: the policy to test; its training modes are restored.
        env: the environment of the observations.
        seed: the seed of episodes and noise.
        n_episodes: E.
        most_pairs: largest number of (episode, agent) pairs to try; if E x N is larger, every episode is repeated
            with as many agents as this allows, in turn, so that every agent is tried at least once.
        hears: called with the share of the work that has just been done; all shares add up to 1.
        before_step: called before every step of an episode; an exception that it raises ends the certificate.
    """
    seeds = evaluation_seeds(seed, "selection", n_episodes)
    chunk = min(n_episodes, env.episodes_at_once)
    spectator = Spectator(before_step=before_step)
    played = run_rollout(
        policy, env, seeds, (seed, "certificate", "rollout"), chunk=chunk, record=True, spectator=spectator
    )
    device, longest = device_of(policy), int(played.lengths.max())
    own = choose_pairs(n_episodes, env.spec.n_agents, most_pairs).to(device)
    life = _Life.of(played, copies=len(own) // n_episodes, device=device)
    shared_seed = draw_shared_seed(policy, len(own), (seed, "certificate"), len(own))

    def one_decision() -> None:
        if before_step is not None:
            before_step()
        if hears is not None:
            hears(1 / (2 * longest))

    with evaluating(policy):
        before = _live(policy, life, longest, _noises(policy, own, seed, anew=False), shared_seed, one_decision)
        other = life.disturbed(own, make_generator(seed, "certificate", "observations", device=device))
        after = _live(policy, other, longest, _noises(policy, own, seed, anew=True), shared_seed, one_decision)
    lengths = played.lengths.to(device).repeat(len(own) // n_episodes)
    compared = own[:, :, None] & (torch.arange(longest, device=device) < lengths[:, None, None])
    delta = (after.double() - before.double())[compared].abs().max()
    return Certificate(
        bool(delta == 0), float(delta), policy.observes_rewards, len(own), n_episodes * env.spec.n_agents
    )


def choose_pairs(n_episodes: int, n_agents: int, most: int) -> Tensor:
    """Chooses the agent that keeps its own inputs in each repetition of an episode.

    Args:
        n_episodes: E.
        n_agents: N.
        most: largest number of pairs of episode and agent; exceeded if it allows less than one per episode or agent.

    Returns:
        `[D E, N]` bool, one True per row: D repetitions of E episodes, no pair twice, every agent at least once; all
            pairs if D = N.
    """
    lives = min(n_agents, max(-(-n_agents // n_episodes), most // n_episodes, 1))
    kept = torch.arange(n_episodes) * lives + torch.arange(lives)[:, None]
    return torch.nn.functional.one_hot(kept.flatten() % n_agents, n_agents).bool()


@dataclass(frozen=True)
class _Life:
    """The agents' inputs in episodes.

    Attributes:
        observations: `[R, N, L+1, O]`.
        legal: `[R, N, L+1, A]` bool, or None.
        rewards: `[R, N, L]`.
    """

    observations: Tensor
    legal: Tensor | None
    rewards: Tensor

    @classmethod
    def of(cls, played: Rollout, copies: int, device: torch.device) -> "_Life":
        """Converts recorded episodes, each repeated `copies` times."""
        assert played.observations is not None
        assert played.rewards is not None
        legal = None if played.legal is None else _legal_after_end(played.legal, played.lengths)
        return cls(
            played.observations.to(device).repeat(copies, 1, 1, 1),
            None if legal is None else legal.to(device).repeat(copies, 1, 1, 1),
            played.rewards.to(device).repeat(copies, 1, 1),
        )

    def disturbed(self, own: Tensor, generator: torch.Generator) -> "_Life":
        """Keeps the inputs of the agents in `own` `[R, N]`; the others get another episode's."""
        keep, legal, rewards = own[:, :, None, None], self.legal, self.rewards
        return _Life(
            torch.where(keep, self.observations, _disturb(self.observations, generator)),
            None if legal is None else torch.where(keep, legal, _other_choices(legal, generator)),
            torch.where(own[:, :, None], rewards, rewards.roll(1, dims=0) + 1),
        )


def _legal_after_end(legal: Tensor, lengths: Tensor) -> Tensor:
    """Makes everything legal after an episode's end, where rows are zero: without a legal action nothing can act."""
    after_end = torch.arange(legal.shape[2]) >= lengths[:, None]
    return legal | after_end[:, None, :, None]


def _other_choices(legal: Tensor, generator: torch.Generator) -> Tensor:
    """Replaces legal choices by another episode's, and half of what was illegal by more of them."""
    added = torch.rand(legal.shape, generator=generator, device=legal.device) < 0.5
    return legal.roll(1, dims=0) | added


def _disturb(observations: Tensor, generator: torch.Generator) -> Tensor:
    """Replaces observations by another episode's, with added noise of their own size."""
    size = observations.std(dim=(0, 2), keepdim=True) + 1e-3
    noise = torch.randn(observations.shape, generator=generator, device=observations.device, dtype=observations.dtype)
    return observations.roll(1, dims=0) + size * noise


def _noises(policy: DecentralizedPolicy, own: Tensor, seed: int, anew: bool) -> Iterator[Tensor]:
    """Yields the noise of each step; with `anew`, only the rows and agents in `own` `[R, N]` keep theirs."""
    ours, theirs = (make_generator(seed, "certificate", whose, device=own.device) for whose in ("own", "others"))
    while True:
        noise = policy.draw_noise(len(own), ours)
        if anew:
            keep = own.view(*own.shape, *[1] * (noise.dim() - 2))
            noise = torch.where(keep, noise, policy.draw_noise(len(own), theirs))
        yield noise


def _live(
    policy: DecentralizedPolicy,
    life: _Life,
    steps: int,
    noises: Iterator[Tensor],
    shared_seed: Tensor | None,
    hears: Callable[[], None],
) -> Tensor:
    """Actions `[R, N, steps]`, or `[R, N, steps, A]` if continuous, of agents that act in given episodes."""
    carry = policy.begin(len(life.observations), life.observations.device, shared_seed)
    taken = []
    for t in range(steps):
        legal = None if life.legal is None else life.legal[:, :, t]
        actions, carry = policy.act_on_noise(life.observations[:, :, t], carry, legal, next(noises))
        carry = policy.observe_rewards(carry, life.rewards[:, :, t])
        taken.append(actions)
        hears()
    return torch.stack(taken, dim=2)
