"""Windows per second of the loader, against decoding sample by sample and against a bare gather."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.large_data import noise, write_shards
from benchmarks.table import Row, ratio
from data_modules.episodes import EpisodeDataModule
from data_modules.storage.store import Layout
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.evaluation.timing import interleaved

N_EPISODES, BATCHES = 4000, 20
SHUFFLE_BUFFER = 1000
SETTINGS = ((Window(history=0, horizon=1), 512), (Window(history=0, horizon=24), 64))


def loader(
    settings: Sequence[tuple[Window, int]] = SETTINGS,
    n_episodes: int = N_EPISODES,
    batches: int = BATCHES,
    repetitions: int = 7,
) -> list[Row]:
    """Measures the time of some batches; the dataset is made up, and small enough for the system's cache."""
    return [row for window, size in settings for row in _rows(window, size, n_episodes, batches, repetitions)]


def _rows(window: Window, batch_size: int, n_episodes: int, batches: int, repetitions: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "blocks", n_episodes, window, batch_size, episodes_per_sample=256)
        single = make_data(Path(folder) / "single", n_episodes // 4, window, batch_size, episodes_per_sample=1)
        sources: dict[str, Iterator[Any]] = {
            "ours": iter(data.train_dataloader()),
            "naive": decoded_batches(single),
            "bare": bare_batches(data, batches),
        }
        takes = {name: partial(_take, source, batches) for name, source in sources.items()}
        seconds = interleaved(takes, repetitions)
    what = f"Spread's rows, T={window.length}, B={batch_size}"
    bare = "rows known beforehand, no masks"
    return [
        Row("loader", what, "WebDataset, episode a sample", ratio(seconds["naive"], seconds["ours"]), ">= 20"),
        Row("loader", what, "bare numpy gather", ratio(seconds["bare"], seconds["ours"]), ">= 0.5", bare),
    ]


def _take(source: Iterator[Any], batches: int) -> None:
    for _ in range(batches):
        next(source)


def make_data(
    path: Path, n_episodes: int, window: Window, batch_size: int, episodes_per_sample: int
) -> EpisodeDataModule:
    """Makes a dataset of three agents and 25 steps, and the module that serves its windows."""
    layout = Layout(episodes_per_sample=episodes_per_sample, samples_per_shard=4096 // episodes_per_sample)
    write_shards(path, n_episodes, [noise(n_episodes)], layout)
    data = EpisodeDataModule(path, window, global_batch_size=batch_size, memory_mb=None)
    data.setup()
    return data


def decoded_batches(data: EpisodeDataModule) -> Iterator[dict[str, torch.Tensor]]:
    """Serves batches the plain way: decode an episode, cut its windows one by one, shuffle in a buffer, stack."""
    import webdataset

    urls = [str(path) for path in sorted(Path(data.manifest.location).glob("*.tar"))]
    episodes = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode().repeat()
    windows = episodes.compose(partial(_windows, horizon=data.window.horizon))
    shuffled = windows.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER)
    return iter(webdataset.WebLoader(shuffled, batch_size=data.serving.global_batch_size, num_workers=0))


def bare_batches(data: EpisodeDataModule, batches: int) -> Iterator[dict[str, np.ndarray]]:
    """Serves the rows of the loader's first batches, again and again, by fancy indexing alone.

    The row numbers are computed beforehand; masks are left out.
    """
    table, source = data.table, iter(data.train_dataloader())
    observations, actions, outcomes = (a.numpy() for a in (table.observations, table.actions, table.outcomes))
    place_of = {int(episode): place for place, episode in enumerate(table.episode_id)}
    indices = [_indices(next(source), table.episodes.numpy(), place_of, data.window) for _ in range(batches)]
    for number in count():
        rows, steps = indices[number % batches]
        yield {"observations": observations[rows], "actions": actions[steps], "outcomes": outcomes[steps]}


def _indices(
    batch: EpisodeBatch, episodes: np.ndarray, place_of: dict[int, int], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """Rows `[B, T+1]` and steps `[B, T]` in the table; tails repeat the last."""
    places = np.array([place_of[int(episode)] for episode in batch.episode_id])
    length, first_step = episodes[places, 0][:, None], episodes[places, 1][:, None]
    time = batch.t.numpy()[:, None] + np.arange(window.horizon + 1)
    return first_step + places[:, None] + np.minimum(time, length), first_step + np.minimum(time[:, :-1], length - 1)


def _windows(samples: Iterator[dict[str, Any]], horizon: int) -> Iterator[dict[str, Any]]:
    for sample in samples:
        length = int(sample["length.npy"][0])
        for t in range(length):
            time = np.arange(t, t + horizon + 1)
            steps = np.minimum(time[:-1], length - 1)
            yield {
                "observations": sample["observations.npy"][np.minimum(time, length)],
                "actions": sample["actions.npy"][steps],
                "rewards": sample["rewards.npy"][steps],
                "episode_id": sample["episode_id.npy"][0],
                "t": t,
            }
