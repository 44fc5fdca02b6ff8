"""Building a dataset's folder: all or nothing, and by one process at a time."""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_modules.arrays import EpisodeRows, Episodes, concatenate, find_fault
from data_modules.manifest import DatasetManifest, read_manifest, write_manifest
from data_modules.shards import write_shards
from data_modules.statistics import StatisticsAccumulator, quantile_knots
from dof_lightning.errors import UserError
from dof_lightning.seeding import counter_uniform, derive_seed
from dof_lightning.spec import DatasetSpec, EnvSpec, fingerprint

_log = logging.getLogger(__name__)


def write_dataset(
    path: Path,
    *,
    name: str,
    environment: EnvSpec,
    recipe: Mapping[str, Any],
    behavior: Mapping[str, Any],
    blocks: Iterable[Episodes],
    n_episodes: int,
    seed: int,
    discount: float = 0.99,
    episodes_per_sample: int = 256,
    samples_per_shard: int = 16,
    buffer_bytes: int = 1 << 30,
) -> DatasetManifest:
    """Builds a dataset, or finds it built.

    Everything is written into a hidden sibling folder, synced, and renamed at the end, so a folder that is there is
    complete. A file lock makes a second builder wait and then find the first one's work; `blocks` is not touched
    until the lock is held, so a lazy collector does nothing twice. The same arguments give the same bytes.

    Episodes are permuted by a hash of (seed, id). The permutation is over the whole set where that fits
    `buffer_bytes`, else within successive buffers of that size; peak memory is about three times that.

    Args:
        path: the dataset's folder.
        name: for people.
        environment: the world the episodes come from.
        recipe: everything that changes the data's meaning; its fingerprint is the dataset's.
        behavior: who acted (name, hash of weights, noise), read after the blocks, which may complete it (win rate); the
            returns of all episodes are added.
        blocks: the episodes, whose ids are all different.
        n_episodes: how many there are in all blocks together.
        seed: of the permutation.
        discount: gamma of discounted returns.
        episodes_per_sample: episodes in one WebDataset sample.
        samples_per_shard: samples in one tar.
        buffer_bytes: see above.

    Raises:
        UserError: the folder holds another dataset, is damaged, or the disk is full.
        ValueError: the blocks contradict the environment's spec or `n_episodes`.
    """
    path = Path(path)
    with _lock(path):
        if path.exists():
            return _accept(path, recipe)
        with _draft(path) as draft:
            statistics = StatisticsAccumulator(environment, discount, n_episodes)
            samples = _samples(blocks, environment, statistics, seed, episodes_per_sample, buffer_bytes)
            members, shards = write_shards(draft, samples, environment, samples_per_shard)
            if (found := sum(shard.n_episodes for shard in shards)) != n_episodes:
                raise ValueError(f"the blocks hold {found} episodes, announced were {n_episodes}")
            returns = statistics.returns()
            manifest = DatasetManifest(
                location=str(path),
                spec=DatasetSpec(name, environment, discount, recipe, statistics.finish()),
                behavior={**behavior, "return_mean": float(returns.mean()), "return_std": float(returns.std())},
                members=members,
                shards=shards,
                longest=statistics.longest,
                n_terminated=statistics.n_terminated,
                return_knots=quantile_knots(returns),
            )
            write_manifest(draft, manifest)
    return read_manifest(path)


def _accept(path: Path, recipe: Mapping[str, Any]) -> DatasetManifest:
    manifest = read_manifest(path)
    wanted = fingerprint(recipe)
    if manifest.spec.fingerprint != wanted:
        raise UserError(
            f"{path} holds another dataset (fingerprint {manifest.spec.fingerprint}, wanted {wanted}); "
            f"delete that folder or choose another data.root"
        )
    return manifest


def _samples(
    blocks: Iterable[Episodes],
    environment: EnvSpec,
    statistics: StatisticsAccumulator,
    seed: int,
    episodes_per_sample: int,
    buffer_bytes: int,
) -> Iterator[EpisodeRows]:
    """Permuted groups of episodes; statistics see each group as it passes."""
    for rows in _buffers(blocks, buffer_bytes):
        if fault := find_fault(rows, environment):
            raise ValueError(fault)
        key = torch.from_numpy(rows.episode_id.astype(np.int64)) ^ derive_seed(seed, "order of episodes on disk")
        order = counter_uniform(key, 1)[:, 0].argsort(stable=True).numpy()
        for start in range(0, len(order), episodes_per_sample):
            sample = rows.select(order[start : start + episodes_per_sample])
            statistics.update(sample)
            yield sample


def _buffers(blocks: Iterable[Episodes], buffer_bytes: int) -> Iterator[EpisodeRows]:
    buffer: list[EpisodeRows] = []
    size = 0
    for block in blocks:
        buffer.append(block.flatten())
        size += sum(array.nbytes for array in buffer[-1].arrays().values())
        if size >= buffer_bytes:
            yield concatenate(buffer)
            buffer, size = [], 0
    if buffer:
        yield concatenate(buffer)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another data.root") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process is building %s: waiting for it", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A hidden folder that takes the place of `path` if all goes well, and vanishes if not."""
    draft = path.with_name(f".{path.name}.building")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for file in draft.iterdir():
            _sync(file)
        _sync(draft)
        draft.rename(path)
        _sync(path.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full; free some space or choose another data.root") from error
        raise
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
