"""The returns that normalised scores 0 and 100 stand for where a prey is our own: nobody has published any."""

import torch

from data_modules.behavior.actor_bank import ActorBank, GaussianBehavior, UniformBehavior
from data_modules.behavior.snapshots import Snapshot
from dof_lightning.envs.base import VectorEnv
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.spec import ReferenceScores

EPISODES = 5_000


def measure_reference(env: VectorEnv, expert: Snapshot, seed: int, command: str) -> ReferenceScores:
    """Returns of uniform actions and of the greedy expert, as it is stored, on the seed's report episodes.

    Args:
        env: with the prey.
        expert: the snapshot called expert.
        seed: of the episodes.
        command: what has trained both, for the source.
    """
    spec = env.spec
    bank = ActorBank(spec.n_agents, spec.observation_dim, spec.action_dim)
    bank.load_state_dict({key: value.to(torch.float16).float() for key, value in expert.weights.items()})
    greedy = GaussianBehavior(bank, spec.n_agents, spec.action_dim, exploration_noise=0.0)
    random, best = (_mean_return(policy, env, seed) for policy in (UniformBehavior(spec), greedy))
    source = f"uniform actions and the greedy expert snapshot of `{command}`, {EPISODES:,} episodes each"
    return ReferenceScores(round(random, 2), round(best, 2), source)


def _mean_return(policy: DecentralizedPolicy, env: VectorEnv, seed: int) -> float:
    seeds = evaluation_seeds(seed, "report", EPISODES)
    return float(run_rollout(policy, env, seeds, (seed, "reference"), chunk=500).returns.mean())
