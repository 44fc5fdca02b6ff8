"""Files behind `http(s)://` and `s3://`, read from front to back; broken connections are reopened.

fsspec does the reading, in an event loop that runs in a thread, which a forked process does not have. So a file is
opened in the process that reads it, and no open file is passed to a worker.
"""

import io
import logging
import sys
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from dof_lightning.errors import UserError

TRIES = 5
FIRST_WAIT_S = 0.5  # before the second try; doubled before each further one
SILENCE_S = 60.0  # a server that sends nothing for this long is considered gone
CHUNK_BYTES = 1 << 22  # size of one request, if a file is not read in one
BUFFER_BYTES = 1 << 18

_CLIENTS = ("aiohttp", "botocore.exceptions")
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


def open_remote(url: str, n_bytes: int | None = None) -> IO[bytes]:
    """Opens an address, `http(s)://` or `s3://`, for reading; it must have `n_bytes`, or any size if None.

    Raises:
        UserError: the file does not exist, may not be read, or has another size; or the connection broke `TRIES` times
            without a byte in between, now or while reading.
    """
    file = RemoteFile(url)
    if n_bytes is not None and file.n_bytes is not None and file.n_bytes != n_bytes:
        found = file.n_bytes
        file.close()
        raise UserError(f"{url} has {found} bytes instead of {n_bytes}: its copy is not complete; upload it again")
    return io.BufferedReader(file, BUFFER_BYTES)


class RemoteFile(io.RawIOBase):
    """An address as a file that can only be read forwards.

    If the connection breaks, it is reopened and reading continues at the same byte: by a request for the rest if the
    server supports ranges, else by reading and discarding the bytes that were read already.

    Attributes:
        n_bytes: its size, None if the server does not report it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        self._file: IO[bytes] | None = None
        self.n_bytes = self._retry(self._open)

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads the server's next bytes into a buffer; 0 bytes only at the end.

        Raises:
            UserError: see `open_remote`.
        """
        data = self._retry(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Closes the connection."""
        self._forget()
        super().close()

    def _open(self) -> int | None:
        self._file, position, n_bytes = _open_from(self._url, self._position)
        while position < self._position:
            skipped = self._file.read(min(BUFFER_BYTES, self._position - position))
            if not skipped:
                raise ConnectionError(f"it ended at byte {position}")
            position += len(skipped)
        return n_bytes

    def _read(self, size: int) -> bytes:
        if self._file is None:
            self._open()
        assert self._file is not None
        data = self._file.read(size)
        if not data and self.n_bytes is not None and self._position < self.n_bytes:
            raise ConnectionError(f"it ended at byte {self._position} of {self.n_bytes}")
        return data

    def _retry(self, action: Callable[[], Result]) -> Result:
        for number in range(TRIES):
            try:
                return action()
            except Exception as error:
                self._forget()
                reason = _describe(error)
                if refusal := _refusal(self._url, error, reason):
                    raise UserError(refusal) from error
                if not isinstance(error, OSError) and not _is(error, "ClientError", "BotoCoreError"):
                    raise
                if number == TRIES - 1:
                    raise UserError(
                        f"{self._url}: the connection broke {TRIES} times at byte {self._position} ({reason}); check "
                        "the server and the network, then type the same command again"
                    ) from error
                wait = FIRST_WAIT_S * 2**number
                _log.warning("%s broke at byte %d (%s): again in %g s", self._url, self._position, reason, wait)
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _forget(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _open_from(url: str, position: int) -> tuple[IO[bytes], int, int | None]:
    """Opens a file; returns it with its current byte, and its size if that is known."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    if not url.startswith("http"):
        file = system.open(path, "rb", block_size=CHUNK_BYTES, cache_type="readahead")
        file.seek(position)
        return file, position, file.size
    from aiohttp import ClientTimeout

    headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if position:
        headers["Range"] = f"bytes={position}-"
    timeout = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    # block size 0: one request for everything; a size, which is not used then, saves a request for it
    file = system.open(path, "rb", block_size=0, size=1, headers=headers, timeout=timeout)
    goes_on = file.r.status == 206
    length = file.r.content_length
    return file, position if goes_on else 0, None if length is None else length + (position if goes_on else 0)


def _refusal(url: str, error: Exception, reason: str) -> str | None:
    """The fix for an error that another try would not solve; None if it may."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return f"{url} is missing: correct the path, or upload the dataset"
    if isinstance(error, ImportError):
        return f"reading {url} needs a package ({reason}): pip install -e '.[s3]'"
    if isinstance(error, PermissionError) or _is(error, "NoCredentialsError") or status in (401, 403):
        return f"{url} may not be read ({reason}): provide credentials that allow it (docs/guide/data.md)"
    if _is(error, "InvalidURL") or (isinstance(status, int) and status not in _RETRIED_STATUS):
        return f"{url} cannot be read ({reason}): correct the address"
    return None


def _is(error: Exception, *names: str) -> bool:
    """Whether an error has one of these names in aiohttp or botocore, which may not be installed."""
    kinds = [vars(sys.modules[module]).get(name) for module in _CLIENTS if module in sys.modules for name in names]
    return any(isinstance(kind, type) and isinstance(error, kind) for kind in kinds)


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
