"""Small made-up datasets: ragged episodes of agents of different sizes, with everything optional."""

from pathlib import Path
from typing import Any

import numpy as np

from data_modules.arrays import Episodes
from data_modules.manifest import DatasetManifest
from data_modules.store import write_dataset
from dof_lightning.spec import AgentSpec, EnvSpec, ReferenceScores

HORIZON = 6
STATE_DIM = 5


def make_environment(discrete: bool = False) -> EnvSpec:
    agents = (AgentSpec("small", 3, 2), AgentSpec("large", 4, 3))
    reference = ReferenceScores(random=0.0, expert=10.0, source="made up")
    kind = "discrete" if discrete else "continuous"
    return EnvSpec("toy", agents, kind, HORIZON, STATE_DIM, {"game": "toy", "discrete": discrete}, reference)


def make_episodes(n: int, seed: int = 0, first_id: int = 0, discrete: bool = False, optional: bool = True) -> Episodes:
    """Padding holds rubbish, so that whoever reads it is found out."""
    environment, rng = make_environment(discrete), np.random.default_rng(seed)
    length = rng.integers(1, HORIZON + 1, size=n).astype(np.int32)
    terminated = (length < HORIZON) | (rng.random(n) < 0.3)
    observations = rng.normal(size=(n, 2, HORIZON + 1, 4)).astype(np.float32)
    observations *= environment.observation_mask().numpy()[:, None]
    if discrete:
        actions = rng.integers(0, [[[2], [3]]], size=(n, 2, HORIZON))
    else:
        actions = rng.uniform(-1, 1, size=(n, 2, HORIZON, 3)).astype(np.float32)
        actions *= environment.action_mask().numpy()[:, None]
    extras: dict[str, Any] = {}
    if optional:
        extras = {
            "state": rng.normal(size=(n, HORIZON + 1, STATE_DIM)).astype(np.float32),
            "legal": rng.random((n, 2, HORIZON + 1, 3)) < 0.7,
            "alive": rng.random((n, 2, HORIZON + 1)) < 0.8,
            "extra_observations": rng.normal(size=(n, 1, HORIZON + 1, 2)).astype(np.float32),
            "extra_actions": rng.normal(size=(n, 1, HORIZON, 2)).astype(np.float32),
            "extra_rewards": rng.normal(size=(n, 1, HORIZON)).astype(np.float32),
        }
    return Episodes(
        observations=observations,
        actions=actions,
        rewards=rng.normal(size=(n, 2, HORIZON)).astype(np.float32),
        terminated=terminated,
        length=length,
        episode_id=np.arange(first_id, first_id + n, dtype=np.int64),
        **extras,
    )


def build(path: Path, *blocks: Episodes, discrete: bool = False, **options: Any) -> DatasetManifest:
    arguments = {
        "name": "toy_dataset",
        "environment": make_environment(discrete),
        "recipe": {"data": "toy"},
        "behavior": {"name": "noise"},
        "n_episodes": sum(block.n_episodes for block in blocks),
        "seed": 0,
        "discount": 0.9,
        "episodes_per_sample": 8,
        "samples_per_shard": 3,
    }
    return write_dataset(path, blocks=blocks, **(arguments | options))
