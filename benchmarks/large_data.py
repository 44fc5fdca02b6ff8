"""Made-up datasets of any size, block by block: the same noise again and again, shifted a little."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.subjects import ACTION_DIM, OBSERVATION_DIM, made_up_spec
from data_modules.storage.arrays import Episodes
from data_modules.storage.manifest import DatasetManifest
from data_modules.storage.store import USUAL_LAYOUT, Description, Layout, write_dataset

N_AGENTS = 3
BLOCK_EPISODES = 1000
_SEEN, _DONE = (OBSERVATION_DIM,), (ACTION_DIM,)
OMAR_ARRAYS = {"obs": _SEEN, "next_obs": _SEEN, "acs": _DONE, "rews": (), "dones": ()}

_SPEC = made_up_spec(N_AGENTS)


def episodes_for(n_bytes: float) -> int:
    """The number of Spread's episodes (25 steps, three agents) that take so many bytes in our shards; whole blocks."""
    episode = 4 * N_AGENTS * (OBSERVATION_DIM * (_SPEC.horizon + 1) + (ACTION_DIM + 1) * _SPEC.horizon)
    return max(1, round(n_bytes / episode / BLOCK_EPISODES)) * BLOCK_EPISODES


def omar_episodes_for(n_bytes: float) -> int:
    """The same number in OMAR's layout, which stores every observation twice; whole blocks."""
    step = 4 * N_AGENTS * sum(int(np.prod(shape)) for shape in OMAR_ARRAYS.values())
    return max(1, round(n_bytes / step / _SPEC.horizon / BLOCK_EPISODES)) * BLOCK_EPISODES


def noise(n_episodes: int) -> Episodes:
    """Makes so many episodes of 25 steps of three agents, all different."""
    rng, shape, steps = np.random.default_rng(0), (n_episodes, N_AGENTS), _SPEC.horizon
    return Episodes(
        observations=rng.standard_normal((*shape, steps + 1, OBSERVATION_DIM), np.float32),
        actions=rng.uniform(-1, 1, (*shape, steps, ACTION_DIM)).astype(np.float32),
        rewards=rng.standard_normal((*shape, steps), np.float32),
        terminated=np.zeros(n_episodes, bool),
        length=np.full(n_episodes, steps, np.int32),
        episode_id=np.arange(n_episodes),
    )


def blocks(n_episodes: int) -> Iterator[Episodes]:
    """Yields so many episodes, a multiple of `BLOCK_EPISODES`, in blocks."""
    block = noise(BLOCK_EPISODES)
    for first in range(0, n_episodes, BLOCK_EPISODES):
        moved = np.float32(first / n_episodes)
        yield replace(
            block,
            observations=block.observations + moved,
            actions=block.actions * moved,
            rewards=block.rewards + moved,
            episode_id=block.episode_id + first,
        )


def write_shards(
    path: Path, n_episodes: int, made: Iterable[Episodes] | None = None, layout: Layout = USUAL_LAYOUT
) -> DatasetManifest:
    """Writes a dataset of so many episodes; by default from a generator that holds one block."""
    return write_dataset(
        path,
        Description(name="made_up", environment=_SPEC.environment, recipe=_SPEC.recipe, behavior={"name": "noise"}),
        blocks=blocks(n_episodes) if made is None else made,
        n_episodes=n_episodes,
        seed=0,
        layout=layout,
    )


def write_omar_folder(folder: Path, n_episodes: int) -> int:
    """Writes them in OMAR's layout, `{obs,next_obs,acs,rews,dones}_<agent>.npy`, end to end; returns the bytes."""
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
