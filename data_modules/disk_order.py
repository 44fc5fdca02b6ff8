"""The order in which episodes are written: a permutation of a whole dataset, of any size, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from data_modules.arrays import EpisodeRows, concatenate
from dof_lightning.seeding import counter_uniform, derive_seed

MOST_BUCKETS = 4096


def permute(
    blocks: Iterable[EpisodeRows], seed: int, n_episodes: int, group_size: int, buffer_bytes: int, scratch: Path
) -> Iterator[EpisodeRows]:
    """All episodes, ordered by a hash of (seed, id).

    What fits into a buffer is sorted in memory. More is first dealt out to files by ranges of the hash, each of which
    then fits, so the order does not depend on the size of the buffer or on how the blocks are cut.

    Args:
        blocks: the episodes, with different ids.
        seed: of the permutation.
        n_episodes: about how many there are.
        group_size: episodes in each group but the last.
        buffer_bytes: episodes that are held at once; peak memory is about two and a half times that, and the blocks.
        scratch: a folder to make for the files; it takes as much as the episodes, and is gone in the end.

    Yields:
        groups of episodes.

    Raises:
        ValueError: some blocks hold arrays that others do not.
    """
    rest: list[EpisodeRows] = []
    for bucket in _buckets(_buffers(blocks, buffer_bytes), seed, n_episodes, buffer_bytes, scratch):
        rows = concatenate([*rest, bucket])
        del bucket
        order = _hash(rows, seed).argsort(kind="stable")
        full = len(order) // group_size * group_size
        for start in range(0, full, group_size):
            yield rows.select(order[start : start + group_size])
        rest = [rows.select(order[full:])]
    if rest and rest[0].n_episodes:
        yield rest[0]


def _hash(rows: EpisodeRows, seed: int) -> np.ndarray:
    """`[n]`, uniform in [0, 1)."""
    key = torch.from_numpy(rows.episode_id.astype(np.int64)) ^ derive_seed(seed, "order of episodes on disk")
    return counter_uniform(key, 1)[:, 0].numpy()


def _buckets(
    buffers: Iterator[tuple[list[EpisodeRows], bool]], seed: int, n_episodes: int, buffer_bytes: int, scratch: Path
) -> Iterator[EpisodeRows]:
    """Episodes by ascending ranges of their hash, in the order of their arrival within each."""
    first, complete = next(buffers, ([], True))
    if complete:
        if first:
            yield _drain(first)
        return
    total = sum(map(_n_bytes, first)) * n_episodes / sum(block.n_episodes for block in first)
    count = int(min(MOST_BUCKETS, n_episodes, -(-2 * total // buffer_bytes)))
    files = [scratch / f"{number:04d}" for number in range(count)]
    names = sorted(first[0].arrays())
    scratch.mkdir()
    for buffer, _ in chain([(first, complete)], buffers):
        _deal(_drain(buffer), files, seed)
    for file in files:
        if file.exists():
            yield _read(file, names)
            file.unlink()
    scratch.rmdir()


def _buffers(blocks: Iterable[EpisodeRows], buffer_bytes: int) -> Iterator[tuple[list[EpisodeRows], bool]]:
    """Successive blocks that fill a buffer, and whether none come after them."""
    names: set[str] = set()
    buffer: list[EpisodeRows] = []
    size = 0
    for block in blocks:
        names = names or set(block.arrays())
        if set(block.arrays()) != names:
            raise ValueError(f"some blocks hold {sorted(block.arrays())}, others {sorted(names)}")
        if size >= buffer_bytes:
            yield buffer, False
            buffer, size = [], 0
        buffer.append(block)
        size += _n_bytes(block)
        del block
    if buffer:
        yield buffer, True


def _drain(buffer: list[EpisodeRows]) -> EpisodeRows:
    """All as one, of which the list keeps nothing alive."""
    rows = concatenate(buffer)
    buffer.clear()
    return rows


def _n_bytes(rows: EpisodeRows) -> int:
    return sum(array.nbytes for array in rows.arrays().values())


def _deal(rows: EpisodeRows, files: list[Path], seed: int) -> None:
    """Appends each episode to the file of its range."""
    number = (_hash(rows, seed) * len(files)).astype(np.int64)
    rows = rows.select(number.argsort(kind="stable"))
    ends = np.bincount(number, minlength=len(files)).cumsum()
    for file, first, last in zip(files, [0, *ends[:-1]], ends, strict=True):
        if first < last:
            with file.open("ab") as stream:
                for _, array in sorted(rows.slice(first, last).arrays().items()):
                    np.save(stream, array, allow_pickle=False)


def _read(file: Path, names: Sequence[str]) -> EpisodeRows:
    parts: list[EpisodeRows] = []
    with file.open("rb") as stream:
        while stream.tell() < file.stat().st_size:
            parts.append(EpisodeRows(**{name: np.load(stream, allow_pickle=False) for name in names}))
    return _drain(parts)
