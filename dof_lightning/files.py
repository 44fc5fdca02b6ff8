"""Writing files completely or not at all, and their digests; tables as Markdown and CSV, and their numbers."""

import csv
import fcntl
import hashlib
import io
import os
import re
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np


def write_atomically(path: Path, content: str | bytes | Callable[[BinaryIO], Any], sync: bool = False) -> None:
    """Replaces a file so that a killed process leaves the old or the new content.

    Args:
        path: the file, which may not exist yet.
        content: text (UTF-8), bytes, or a function that writes into the open file.
        sync: whether to wait until file and rename are on the disk, so that they survive a power failure.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
        if sync:
            _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(path: Path) -> None:
    """Deletes drafts of a file left by killed processes; only for files that a single process ever writes."""
    for draft in path.parent.glob(f".{path.name}.*.tmp"):
        draft.unlink(missing_ok=True)


@contextmanager
def building(path: Path, suffix: str = "building") -> Iterator[Path]:
    """A hidden folder that takes the place of `path`, synced, if all goes well, and vanishes if not.

    Remains of a killed process under its name are deleted.

    Args:
        path: a folder that does not exist or is empty.
        suffix: suffix of the hidden folder's name; one per process if several may build the same path.
    """
    draft = path.with_name(f".{path.name}.{suffix}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        for file in draft.rglob("*"):
            _sync(file)
        _sync(draft)
        draft.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def hold(path: Path) -> bool:
    """Takes the lock of a file or folder until this process ends, however it ends; False if another has it."""
    descriptor = _open(path)
    if _lock(descriptor, wait=False):
        return True
    _close(descriptor)
    return False


@contextmanager
def locked(path: Path, on_wait: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Holds the lock of a file or folder, which other processes and threads wait for.

    Args:
        path: a folder, or a file, which is created if it does not exist.
        on_wait: called once if another process has the lock.
    """
    descriptor = _open(path)
    try:
        if not _lock(descriptor, wait=False):
            on_wait()
            _lock(descriptor, wait=True)
        yield
    finally:
        _close(descriptor)


_open_locks: set[int] = set()


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT)
    _open_locks.add(descriptor)
    return descriptor


def _lock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(descriptor: int) -> None:
    if descriptor in _open_locks:  # a child that was forked in the meantime has already closed it
        _open_locks.remove(descriptor)
        os.close(descriptor)


def _close_all() -> None:
    for descriptor in list(_open_locks):
        _close(descriptor)


# A loader's worker that outlives its parent for a moment must not keep the parent's locks.
os.register_at_fork(after_in_child=_close_all)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def text(value: Any, digits: int = 3) -> str:
    """A number in a table's format; anything else as it is."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def over_seeds(values: "Sequence[float] | np.ndarray", digits: int = 1) -> str:
    """The mean, and with several seeds their standard deviation (Bessel's correction): `44.8 ± 3.1`."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; a bar in a cell would end it and is replaced by a stroke."""
    lines = [list(columns), ["---"] * len(columns), *([text(value) for value in row] for row in rows)]
    cells = ([re.sub(r"(?<!\\)[|]", "/", cell) for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The same table as comma-separated values, with numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
