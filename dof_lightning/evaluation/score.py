"""Reported scores: fixed seeds, decentralised execution, and the certificate."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from dof_lightning import console
from dof_lightning.checkpoints.checkpoint import Checkpoint, build_env
from dof_lightning.checkpoints.overrides import build_acting
from dof_lightning.envs.base import VectorEnv
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.certificate import EPISODES, certify
from dof_lightning.rollout.run import Spectator, evaluation_seeds, run_rollout
from dof_lightning.seeding import make_generator
from dof_lightning.spec import check_compatible
from dof_lightning.threads import available_cores, threads_asked_for

DECISION_REPETITIONS = 10  # number of timed repetitions of a decision; the fastest counts
_CHUNK = 100  # report episodes that go through the policy together, if the environment plays so many at once

NOT_EVALUATED: Mapping[str, Any] = {
    "status": "not evaluated",
    "episodes": 0,
    "return_mean": None,
    "return_std": None,
    "normalized_score": None,
    "certificate": None,
}  # takes the place of a score if no episode was played (rollout=none)


@dataclass(frozen=True)
class Score:
    """The scores of one policy.

    Attributes:
        episodes: number of episodes played.
        return_mean: episode return, mean over agents and episodes.
        return_std: standard deviation over episodes.
        normalized_score: 0 is random, 100 the reference expert; None if no references are published.
        own_normalized_score: the same, with references measured against the environment's own prey, if there are any.
        certificate: `passed` and `max_abs_delta`, see `Certificate.to_dict`.
        shared_seeds: M of agents that act on a common seed drawn before the episode; None for agents without one.
        execution: `decentralized`, or `centralized` if the agents acted as one.
        win_rate: share of battles won; None if there are no battles.
    """

    episodes: int
    return_mean: float
    return_std: float
    normalized_score: float | None
    certificate: dict[str, Any]
    execution: str = "decentralized"
    shared_seeds: int | None = None
    own_normalized_score: float | None = None
    win_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `results.json`, without defaults: decentralised, no shared seed, one score, no wins."""
        usual = {"execution": "decentralized", "shared_seeds": None, "own_normalized_score": None, "win_rate": None}
        return {key: value for key, value in asdict(self).items() if key not in usual or value != usual[key]}


def evaluate(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Score:
    """Rolls a checkpoint out on the report seeds of its run and certifies it.

    The numbers are a function of checkpoint and configuration: the final evaluation of a run and `dof eval` agree.

    Args:
        checkpoint: the checkpoint to evaluate.
        config: the checkpoint's configuration, possibly with changed `rollout`, `env` or sampler values.

    Raises:
        UserError: environment and dataset do not fit together, or weights and configuration do not.
    """
    policy, env = build_policy(checkpoint, config)
    return score(policy, env, config)


def build_policy(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[DecentralizedPolicy, VectorEnv]:
    """Builds the policy to evaluate and its environment; arguments and errors as in `evaluate`."""
    torch.set_num_threads(cores_per_process(1))
    env = build_env(config)
    check_compatible(checkpoint.spec, env.spec)
    return build_acting(checkpoint, config), env


def first_decision(policy: DecentralizedPolicy, env: VectorEnv) -> Callable[[], Any]:
    """Returns a function to time: the first decision of an episode for all agents, including their noise."""
    observations = env.reset(evaluation_seeds(0, "selection", 1))
    generator = make_generator(0, "decision", device=observations.device)
    carry = policy.begin(1, observations.device, policy.draw_shared_seed(1, generator))
    return partial(torch.no_grad()(policy.act), observations, carry, env.legal, generator)


def score(policy: DecentralizedPolicy, env: VectorEnv, config: Mapping[str, Any]) -> Score:
    """Rolls a policy out on the report seeds of a configuration and certifies it."""
    seed, episodes = config["seed"], config["rollout"]["report_episodes"]
    seeds, chunk = evaluation_seeds(seed, "report", episodes), min(_CHUNK, env.episodes_at_once)
    with console.progress({"playing": episodes, "certifying": 1}) as (played, certified):
        rollout = run_rollout(policy, env, seeds, (seed, "report"), chunk, spectator=Spectator(hears=played))
        certificate = certify(policy, env, seed, certificate_episodes(config), hears=certified)
    returns = rollout.returns
    return_mean, own = float(returns.mean()), env.spec.own_reference
    return Score(
        episodes=episodes,
        return_mean=return_mean,
        return_std=float(returns.std(correction=0)),
        normalized_score=normalize(env, return_mean),
        certificate=certificate.to_dict(),
        execution="decentralized" if policy.acts_alone else "centralized",
        shared_seeds=policy.shared_seeds,
        own_normalized_score=None if own is None else own.normalize(return_mean),
        win_rate=None if rollout.won is None else float(rollout.won.double().mean()),
    )


def certificate_episodes(config: Mapping[str, Any]) -> int:
    """The number of episodes of a certificate, which configurations of earlier versions do not contain."""
    return int(config["rollout"].get("certificate_episodes", EPISODES))


def normalize(env: VectorEnv, episode_return: float) -> float | None:
    """The normalised score of a return, None if the environment has no reference."""
    reference = env.spec.reference
    return None if reference is None else reference.normalize(episode_return)


def cores_per_process(processes: int) -> int:
    """Threads that each process on this machine may use; more threads than its share make everything many times slower.

    `OMP_NUM_THREADS` is the user's choice for each process, and SLURM's tasks have their own cores: neither is divided
    again.
    """
    return _ASKED_FOR or max(1, available_cores() // (1 if "SLURM_PROCID" in os.environ else processes))


_ASKED_FOR = threads_asked_for()  # read before Lightning's launcher changes it
