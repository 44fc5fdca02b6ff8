"""Windows a second of the loader, against decoding sample by sample and against a bare gather."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.subjects import made_up_spec
from benchmarks.table import Row, interleaved, ratio
from data_modules.arrays import Episodes
from data_modules.episodes import EpisodeDataModule
from data_modules.store import write_dataset
from dof_lightning.batch import EpisodeBatch, Window

N_EPISODES, BATCH_SIZE, BATCHES = 4000, 512, 20
SHUFFLE_BUFFER = 1000


def loader(
    n_episodes: int = N_EPISODES, batch_size: int = BATCH_SIZE, batches: int = BATCHES, repetitions: int = 7
) -> list[Row]:
    """Time of some batches; the dataset is made up, and small enough to be in the system's cache."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "blocks", n_episodes, batch_size, episodes_per_sample=256)
        single = make_data(Path(folder) / "single", min(n_episodes, 1000), batch_size, episodes_per_sample=1)
        ours, naive, bare = iter(data.train_dataloader()), decoded_batches(single), bare_batches(data)

        def take(source: Iterator[Any]) -> Callable[[], object]:
            return lambda: [next(source) for _ in range(batches)]

        functions = {"ours": take(ours), "naive": take(naive), "bare": take(bare)}
        seconds = interleaved(functions, repetitions)
    what = f"windows of Spread's size, B={batch_size}"
    return [
        Row("loader", what, "WebDataset, episode a sample", ratio(seconds["naive"], seconds["ours"]), ">= 20"),
        Row("loader", what, "bare numpy gather", ratio(seconds["bare"], seconds["ours"]), ">= 0.5"),
    ]


def make_data(path: Path, n_episodes: int, batch_size: int, episodes_per_sample: int) -> EpisodeDataModule:
    """A dataset of three agents and 25 steps, and the module that serves its windows."""
    spec, rng = made_up_spec(3), np.random.default_rng(0)
    shape, steps = (n_episodes, 3), spec.horizon
    episodes = Episodes(
        observations=rng.standard_normal((*shape, steps + 1, spec.observation_dim), np.float32),
        actions=rng.uniform(-1, 1, (*shape, steps, spec.action_dim)).astype(np.float32),
        rewards=rng.standard_normal((*shape, steps), np.float32),
        terminated=np.zeros(n_episodes, bool),
        length=np.full(n_episodes, steps, np.int32),
        episode_id=np.arange(n_episodes),
    )
    write_dataset(
        path,
        name="made_up",
        environment=spec.environment,
        recipe=spec.recipe,
        behavior={"name": "noise"},
        blocks=[episodes],
        n_episodes=n_episodes,
        seed=0,
        episodes_per_sample=episodes_per_sample,
        samples_per_shard=4096 // episodes_per_sample,
    )
    data = EpisodeDataModule(path, Window(history=0, horizon=1), batch_size, seed=0)
    data.setup()
    return data


def decoded_batches(data: EpisodeDataModule) -> Iterator[dict[str, torch.Tensor]]:
    """The plain way: decode an episode, cut its windows one by one, shuffle them in a buffer, stack them."""
    import webdataset

    urls = [str(path) for path in sorted(Path(data.manifest.location).glob("*.tar"))]
    episodes = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode().repeat()
    windows = episodes.compose(_windows).shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER)
    return iter(webdataset.WebLoader(windows, batch_size=data.global_batch_size, num_workers=0))


def bare_batches(data: EpisodeDataModule) -> Iterator[dict[str, np.ndarray]]:
    """The same rows as the loader's batches, by fancy indexing alone: the rows are known beforehand."""
    table, batches = data.table, iter(data.train_dataloader())
    arrays = {"observations": table.observations.numpy(), "actions": table.actions.numpy()}
    outcomes, place_of = table.outcomes.numpy(), {int(e): i for i, e in enumerate(table.episode_id)}
    indices = [_rows_of(next(batches), table.episodes.numpy(), place_of) for _ in range(BATCHES)]
    for number in count():
        rows, steps = indices[number % len(indices)]
        yield {
            "observations": arrays["observations"][rows],
            "actions": arrays["actions"][steps],
            "outcomes": outcomes[steps],
        }


def _rows_of(batch: EpisodeBatch, episodes: np.ndarray, place_of: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows `[B, 2]` and steps `[B]` in the table."""
    places = np.array([place_of[int(episode)] for episode in batch.episode_id])
    steps = episodes[places, 1] + batch.t.numpy()
    rows = steps + places
    return np.stack((rows, rows + 1), axis=1), steps


def _windows(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        for t in range(int(sample["length.npy"][0])):
            yield {
                "observations": sample["observations.npy"][t : t + 2],
                "actions": sample["actions.npy"][t],
                "rewards": sample["rewards.npy"][t],
                "episode_id": sample["episode_id.npy"][0],
                "t": t,
            }
