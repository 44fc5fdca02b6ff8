"""The order in which episodes are written: a permutation of a whole dataset, of any size, in bounded memory."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from data_modules.storage.arrays import DataFault, EpisodeRows, concatenate
from data_modules.storage.journal import Journal
from dof_lightning.errors import UserError
from dof_lightning.seeding import counter_uniform, derive_seed

MOST_BUCKETS = 4096

Key = Callable[[EpisodeRows], np.ndarray]


def permute(
    blocks: Iterable[EpisodeRows],
    seed: int,
    n_episodes: int,
    group_size: int,
    buffer_bytes: int,
    scratch: Path,
    journal: Journal | None = None,
    most_bytes: int = 0,
) -> Iterator[EpisodeRows]:
    """Yields all episodes in groups, ordered by a hash of (seed, id).

    Episodes that fit into a buffer are sorted in memory. More episodes are first distributed to files by ranges of the
    hash, each of which then fits, so the order does not depend on the size of the buffer or on how the blocks are cut.

    Args:
        blocks: the episodes, with different ids.
        seed: seed of the permutation.
        n_episodes: approximate number of episodes.
        group_size: number of episodes in each group but the last.
        buffer_bytes: bytes of episodes that are held at once; peak memory is about two and a half times that, and the
            blocks.
        scratch: a folder to create for the files; it takes as much space as the episodes, and is removed at the end.
        journal: journal of files that a killed process may have left in its folder, which then replaces `scratch`:
            `blocks` contains the episodes after those already distributed, and the files stay until the journal is
            removed.
        most_bytes: largest size of one episode; 0 means about that of the first ones.

    Raises:
        DataFault: some blocks contain arrays that others do not, or two episodes have the same id.
    """

    def key(rows: EpisodeRows) -> np.ndarray:
        _check_ids(rows.episode_id)  # equal ids have equal keys, so they meet at the latest when a range is sorted
        hashed = torch.from_numpy(rows.episode_id.astype(np.int64)) ^ derive_seed(seed, "order of episodes on disk")
        return counter_uniform(hashed, 1)[:, 0].numpy()

    return arrange(blocks, key, n_episodes, group_size, buffer_bytes, scratch, journal, most_bytes)


def arrange(
    blocks: Iterable[EpisodeRows],
    key: Key,
    n_episodes: int,
    group_size: int,
    buffer_bytes: int,
    scratch: Path,
    journal: Journal | None = None,
    most_bytes: int = 0,
) -> Iterator[EpisodeRows]:
    """Yields all episodes by ascending keys, which map n episodes to `[n]` numbers in [0, 1), spread about evenly.

    Everything else is as in `permute`.

    Raises:
        DataFault: some blocks contain arrays that others do not.
    """
    rest: list[EpisodeRows] = []
    folder = scratch if journal is None else journal.folder
    dealing = _Dealing(key, n_episodes, buffer_bytes, folder, journal, most_bytes)
    for bucket in dealing.buckets(_buffers(blocks, buffer_bytes)):
        rows = concatenate([*rest, bucket])
        del bucket
        order = key(rows).argsort(kind="stable")
        full = len(order) // group_size * group_size
        for start in range(0, full, group_size):
            yield rows.select(order[start : start + group_size])
        rest = [rows.select(order[full:])]
    if rest and rest[0].n_episodes:
        yield rest[0]


@dataclass(frozen=True)
class _Dealing:
    """Distributes episodes to ascending ranges of their key, in the order of arrival within each range.

    Arguments are those of `arrange`.
    """

    key: Key
    n_episodes: int
    buffer_bytes: int
    folder: Path
    journal: Journal | None
    most_bytes: int

    def buckets(self, buffers: Iterator[tuple[list[EpisodeRows], bool]]) -> Iterator[EpisodeRows]:
        """Yields the ranges: directly if everything fits into one buffer, else through files."""
        dealt = None if self.journal is None else self.journal.dealt
        if dealt is None:
            first, complete = next(buffers, ([], True))
            if complete:
                if first:
                    yield _drain(first)
                return
            names, files = sorted(first[0].arrays()), self._files(self._count(first))
            self.folder.mkdir()
            self._deal(chain([(first, complete)], buffers), names, files, 0)
        else:
            assert self.journal is not None
            names, files = list(dealt.names), self._files(len(dealt.sizes))
            self.journal.restore(files)
            self._deal(buffers, names, files, dealt.episodes)
        yield from self._collect(names, files)

    def _count(self, first: list[EpisodeRows]) -> int:
        seen = sum(map(_n_bytes, first)) / sum(block.n_episodes for block in first)
        total = max(seen, self.most_bytes) * self.n_episodes
        return int(min(MOST_BUCKETS, self.n_episodes, -(-2 * total // self.buffer_bytes)))

    def _files(self, count: int) -> list[Path]:
        return [self.folder / f"{number:04d}" for number in range(count)]

    def _deal(
        self, buffers: Iterable[tuple[list[EpisodeRows], bool]], names: list[str], files: list[Path], done: int
    ) -> None:
        """Appends each episode to the file of its range."""
        for buffer, _ in buffers:
            rows = _drain(buffer)
            done += rows.n_episodes
            number = (self.key(rows) * len(files)).astype(np.int64)
            rows = rows.select(number.argsort(kind="stable"))
            ends = np.bincount(number, minlength=len(files)).cumsum()
            for file, first, last in zip(files, [0, *ends[:-1]], ends, strict=True):
                if first < last:
                    with file.open("ab") as stream:
                        for _, array in sorted(rows.slice(first, last).arrays().items()):
                            np.save(stream, array, allow_pickle=False)
            if self.journal is not None:
                self.journal.save(done, names, files)

    def _read(self, file: Path, names: Sequence[str]) -> EpisodeRows:
        try:
            return _read(file, names)
        except (ValueError, EOFError):
            if self.journal is None:
                raise
            self.journal.remove()
            raise UserError(
                f"{file}, with unstored episodes, was damaged and has been deleted: type the same command again"
            ) from None

    def _collect(self, names: list[str], files: list[Path]) -> Iterator[EpisodeRows]:
        for file in files:
            if file.exists() and file.stat().st_size:
                yield self._read(file, names)
                if self.journal is None:
                    file.unlink()
        if self.journal is None:
            shutil.rmtree(self.folder)


def _check_ids(ids: np.ndarray) -> None:
    """Refuses ids `[n]` that are not all different: what is held out, and every draw, depends on them."""
    found, counts = np.unique(ids, return_counts=True)
    if len(found) < len(ids):
        most = int(counts.argmax())
        raise DataFault(f"episode_id {found[most]} stands for {counts[most]} episodes; give each an id of its own")


def _buffers(blocks: Iterable[EpisodeRows], buffer_bytes: int) -> Iterator[tuple[list[EpisodeRows], bool]]:
    """Yields successive blocks that fill a buffer, and whether they are the last."""
    names: set[str] = set()
    buffer: list[EpisodeRows] = []
    size = 0
    for block in blocks:
        names = names or set(block.arrays())
        if set(block.arrays()) != names:
            raise DataFault(f"some blocks contain {sorted(block.arrays())}, others {sorted(names)}")
        if size >= buffer_bytes:
            yield buffer, False
            buffer, size = [], 0
        buffer.append(block)
        size += _n_bytes(block)
        del block
    if buffer:
        yield buffer, True


def _drain(buffer: list[EpisodeRows]) -> EpisodeRows:
    """Joins all blocks into one and empties the list, so that it keeps nothing alive."""
    rows = concatenate(buffer)
    buffer.clear()
    return rows


def _n_bytes(rows: EpisodeRows) -> int:
    return sum(array.nbytes for array in rows.arrays().values())


def _read(file: Path, names: Sequence[str]) -> EpisodeRows:
    parts: list[EpisodeRows] = []
    with file.open("rb") as stream:
        while stream.tell() < file.stat().st_size:
            parts.append(EpisodeRows(**{name: np.load(stream, allow_pickle=False) for name in names}))
    return _drain(parts)
