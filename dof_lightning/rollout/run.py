"""Batched decentralised rollouts: many episodes at once, a loop over time only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.handover import check_reset, check_step
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.recorder import Recorder, Tally, concatenate, no_episodes
from dof_lightning.rollout.recorder import Rollout as Rollout
from dof_lightning.seeding import derive_seed, make_generator

Purpose = Literal["selection", "report"]

_MOST_FRAMES = 250  # frames of a drawn episode; a longer one is drawn every few steps


@dataclass(frozen=True)
class Spectator:
    """Callbacks and drawing while episodes are played.

    Attributes:
        draws: index of the one episode that is drawn, every few steps if it is long; None draws nothing.
        hears: called with the number of episodes that just ended.
        before_step: called before every step of the environment; an exception that it raises ends the rollout.
    """

    draws: int | None = None
    hears: Callable[[int], None] | None = None
    before_step: Callable[[], None] | None = None

    def drawn_of(self, start: int, count: int) -> int | None:
        """The index from `start` on of the drawn episode, if it is among the next `count`; None otherwise."""
        return None if self.draws is None or self.draws - start not in range(count) else self.draws - start


NOBODY = Spectator()


def run_rollout(
    policy: DecentralizedPolicy,
    env: VectorEnv,
    seeds: Tensor,
    noise_key: tuple[int | str, ...],
    chunk: int = 100,
    record: bool = False,
    first_episode: int = 0,
    spectator: Spectator = NOBODY,
) -> Rollout:
    """Lets the agents act, each on its own, until every episode has ended.

    Episodes go through policy and environment `chunk` at a time, with noise drawn for a whole chunk from
    `make_generator(*noise_key, index of the chunk)`: an episode's outcome depends on its global index and the chunk
    size, but not on the rank that runs it or the number of other episodes (up to rounding, if the last chunk is
    not full). So a shorter rollout gives the first episodes of a longer one.

    Args:
        policy: acts without gradients in evaluation mode; its training modes are restored.
        env: may be on another device than the policy.
        seeds: `[E]` int64, one per episode.
        noise_key: names the stream of the policy's noise.
        chunk: episodes that share a stream of noise.
        record: whether to keep everything that a dataset needs.
        first_episode: global index of the first seed, a multiple of `chunk`.
        spectator: draws an episode, receives the number of ended episodes, and may end the rollout before any step.

    Raises:
        ValueError: `first_episode` is not a multiple of `chunk`.
    """
    if first_episode % chunk:
        raise ValueError(f"first_episode={first_episode} is not a multiple of chunk={chunk}")
    device = device_of(policy)
    parts = [no_episodes(env.spec.n_agents)]
    with evaluating(policy):
        for start in range(0, len(seeds), chunk):
            key = (*noise_key, (first_episode + start) // chunk)
            members = seeds[start : start + chunk]
            noises = _noises(policy, chunk, len(members), make_generator(*key, device=device))
            shared_seed = draw_shared_seed(policy, chunk, key, len(members))
            noises = _asked_before_each(noises, spectator.before_step)
            drawn = spectator.drawn_of(start, len(members))
            parts.append(_run_chunk(policy, env, members, noises, record, drawn, shared_seed))
            if spectator.hears is not None:
                spectator.hears(len(members))
    return concatenate(parts[1:] or parts)


def split_episodes(n_episodes: int, chunk: int, rank: int, world_size: int) -> range:
    """The episodes of one rank: contiguous whole chunks, as even as chunks allow; the ranks' union is all episodes."""
    n_chunks = -(-n_episodes // chunk)
    first, last = (chunk * (r * n_chunks // world_size) for r in (rank, rank + 1))
    return range(min(first, n_episodes), min(last, n_episodes))


def evaluation_seeds(seed: int, purpose: Purpose, n_episodes: int) -> Tensor:
    """Environment seeds of evaluation episodes, a pure function of seed, purpose and index.

    Seeds for selecting the best checkpoint are even and seeds for reporting are odd, so the two never overlap,
    whatever the run's seed.

    Returns:
        `[n_episodes]` int64.
    """
    base = derive_seed(seed, "evaluation", purpose) >> 2
    return 2 * (base + torch.arange(n_episodes)) + int(purpose == "report")


def _run_chunk(
    policy: DecentralizedPolicy,
    env: VectorEnv,
    seeds: Tensor,
    noises: Iterator[Tensor],
    record: bool,
    drawn: int | None,
    shared_seed: Tensor | None,
) -> Rollout:
    observations, device = env.reset(seeds), device_of(policy)
    carry = policy.begin(len(seeds), device, shared_seed)
    check_reset(env.spec, seeds, observations, env.state, env.legal)
    tally = Tally(observations)
    recorder = Recorder() if record else None
    if recorder is not None:
        recorder.add(
            tally.active,
            observations=observations,
            legal=env.legal,
            state=env.state,
            extra_observations=env.extra_observations,
        )
    frames = [env.render(drawn)] if drawn is not None else None
    steps_between_frames = -(-env.spec.horizon // _MOST_FRAMES)
    for step in range(env.spec.horizon):
        legal = env.legal
        legal = None if legal is None else legal.to(device)
        actions, carry = policy.act_on_noise(observations.to(device), carry, legal, next(noises))
        actions = actions.to(observations.device)
        result = env.step(actions)
        check_step(env.spec, seeds, step + 1, tally.active, actions, result)
        carry = policy.observe_rewards(carry, result.rewards.to(device))
        if recorder is not None:
            recorder.add_step(tally.active, actions, result)
        due = (step + 1) % steps_between_frames == 0
        if due and frames is not None and drawn is not None and bool(tally.active[drawn]):
            frames.append(env.render(drawn))
        tally.add(result)
        observations = result.observations
        if not tally.active.any():
            break
    arrays = {} if recorder is None else recorder.arrays(env.spec.horizon)
    return tally.finish(frames, arrays)


def _noises(policy: DecentralizedPolicy, chunk: int, n_episodes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields the noise of each decision, `[n_episodes, N, ...]`: the first rows of a whole chunk's noise."""
    while True:
        yield policy.draw_noise(chunk, generator)[:n_episodes]


def _asked_before_each(noises: Iterator[Tensor], before_step: Callable[[], None] | None) -> Iterator[Tensor]:
    """Yields the same noise and calls `before_step` before each, once per step of the environment."""
    for noise in noises:
        if before_step is not None:
            before_step()
        yield noise


def draw_shared_seed(
    policy: DecentralizedPolicy, chunk: int, key: tuple[int | str, ...], n_episodes: int
) -> Tensor | None:
    """Draws the agents' shared seeds from a separate stream, so that the noise is the same as without them."""
    seeds = policy.draw_shared_seed(chunk, make_generator(*key, "shared seed", device=device_of(policy)))
    return None if seeds is None else seeds[:n_episodes]


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's tensors; the CPU if it has none."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients; afterwards every submodule's mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
