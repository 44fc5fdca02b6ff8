"""Made-up datasets of any size, block by block: the same noise again and again, moved a little."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.subjects import ACTION_DIM, OBSERVATION_DIM, made_up_spec
from data_modules.storage.arrays import Episodes
from data_modules.storage.manifest import DatasetManifest
from data_modules.storage.store import Description, write_dataset

N_AGENTS = 3
BLOCK_EPISODES = 1000
OMAR_ARRAYS = {
    "obs": (OBSERVATION_DIM,),
    "next_obs": (OBSERVATION_DIM,),
    "acs": (ACTION_DIM,),
    "rews": (),
    "dones": (),
}

_SPEC = made_up_spec(N_AGENTS)
_ROW = 4 * N_AGENTS * OBSERVATION_DIM
_STEP = 4 * N_AGENTS * (ACTION_DIM + 1)


def episodes_for(n_bytes: float) -> int:
    """How many of Spread's episodes (25 steps of three agents) take so much in our shards; whole blocks."""
    episode = _ROW * (_SPEC.horizon + 1) + _STEP * _SPEC.horizon
    return max(1, round(n_bytes / episode / BLOCK_EPISODES)) * BLOCK_EPISODES


def omar_episodes_for(n_bytes: float) -> int:
    """How many take so much in OMAR's layout, which stores every observation twice; whole blocks."""
    step = 4 * N_AGENTS * sum(int(np.prod(shape)) for shape in OMAR_ARRAYS.values())
    return max(1, round(n_bytes / step / _SPEC.horizon / BLOCK_EPISODES)) * BLOCK_EPISODES


def blocks(n_episodes: int) -> Iterator[Episodes]:
    """So many episodes, a multiple of `BLOCK_EPISODES`."""
    rng, steps = np.random.default_rng(0), _SPEC.horizon
    shape = (BLOCK_EPISODES, N_AGENTS)
    observations = rng.standard_normal((*shape, steps + 1, OBSERVATION_DIM), np.float32)
    actions = rng.uniform(-1, 1, (*shape, steps, ACTION_DIM)).astype(np.float32)
    rewards = rng.standard_normal((*shape, steps), np.float32)
    for first in range(0, n_episodes, BLOCK_EPISODES):
        moved = np.float32(first / n_episodes)
        yield Episodes(
            observations=observations + moved,
            actions=actions * moved,
            rewards=rewards + moved,
            terminated=np.zeros(BLOCK_EPISODES, bool),
            length=np.full(BLOCK_EPISODES, steps, np.int32),
            episode_id=np.arange(first, first + BLOCK_EPISODES),
        )


def write_shards(path: Path, n_episodes: int) -> DatasetManifest:
    """A dataset of so many episodes, from a generator that holds one block."""
    return write_dataset(
        path,
        Description(name="made_up", environment=_SPEC.environment, recipe=_SPEC.recipe, behavior={"name": "noise"}),
        blocks=blocks(n_episodes),
        n_episodes=n_episodes,
        seed=0,
    )


def write_omar_folder(folder: Path, n_episodes: int) -> int:
    """The same in OMAR's layout: `{obs,next_obs,acs,rews,dones}_<agent>.npy`, all steps end to end; bytes written."""
    folder.mkdir(parents=True)
    steps = n_episodes * _SPEC.horizon
    files = {
        (name, agent): np.lib.format.open_memmap(folder / f"{name}_{agent}.npy", "w+", np.float32, (steps, *shape))
        for name, shape in OMAR_ARRAYS.items()
        for agent in range(N_AGENTS)
    }
    first = 0
    for block in blocks(n_episodes):
        last = first + block.n_episodes * _SPEC.horizon
        for agent in range(N_AGENTS):
            values = {
                "obs": block.observations[:, agent, :-1],
                "next_obs": block.observations[:, agent, 1:],
                "acs": block.actions[:, agent],
                "rews": block.rewards[:, agent],
                "dones": np.zeros(block.rewards[:, agent].shape),
            }
            for name, array in values.items():
                files[name, agent][first:last] = array.reshape(last - first, *OMAR_ARRAYS[name])
        first = last
    return sum(file.nbytes for file in files.values())
