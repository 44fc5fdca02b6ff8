"""A small made-up dataset of many small shards, of which a few fit into memory at once."""

from pathlib import Path
from typing import Any

from small_data_module import DISCOUNT, FakeTrainer, make_data
from small_dataset import build, make_episodes

from data_modules.episodes import EpisodeDataModule
from data_modules.manifest import read_manifest
from data_modules.streaming import BLOCKS_ALIVE
from data_modules.windows import memory_of
from dof_lightning.batch import Window

EPISODES = 60
SHARDS_A_BLOCK = 3
ONE_STEP = Window(0, 1)


def build_shards(path: Path, episodes: int = EPISODES, episodes_per_shard: int = 4) -> None:
    sizes = {"episodes_per_sample": episodes_per_shard, "samples_per_shard": 1}
    build(path, make_episodes(episodes), discount=DISCOUNT, **sizes)


def memory_for(path: Path, shards_a_block: float = SHARDS_A_BLOCK) -> float:
    """`memory_mb` with which a block holds about so many shards."""
    manifest = read_manifest(path)
    largest = max(memory_of(manifest, shard) for shard in manifest.shards)
    return BLOCKS_ALIVE * shards_a_block * largest / 1e6


def make_stream(
    path: Path | str, rank: int = 0, world_size: int = 1, step: int = 0, window: Window = ONE_STEP, **options: Any
) -> EpisodeDataModule:
    """A data module that streams, as one rank of a trainer sees it, set up."""
    if isinstance(path, Path) and not path.exists():
        build_shards(path)
    data = make_data(path, window, **({"memory_mb": memory_for(path)} | options))
    data.trainer = FakeTrainer(rank, world_size, step)
    data.setup()
    return data
