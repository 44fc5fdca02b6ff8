"""Files whose sha256 is known as soon as they have been read or written, without doing it twice."""

import hashlib
import io
from pathlib import Path
from typing import IO, Any

READ_BYTES = 1 << 17  # large, because every read and hash gives up the interpreter's lock and has to wait for it again


class ReadHashed(io.RawIOBase):
    """A file that is read.

    Args:
        file: what is read.
        n_bytes: how many it may have; None: any number.
    """

    def __init__(self, file: IO[bytes], n_bytes: int | None = None) -> None:
        self._file = file
        self._n_bytes, self._read = n_bytes, 0
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads and counts in.

        Raises:
            ValueError: there is more than there should be.
        """
        size: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._read += size
        if self._n_bytes is not None and self._read > self._n_bytes:
            raise ValueError(f"it has more than its {self._n_bytes} bytes")
        self._sha256.update(memoryview(buffer)[:size])
        return size

    def finish(self) -> str:
        """Reads what is left; the sha256 of the whole, hexadecimal."""
        rest = bytearray(READ_BYTES)
        while self.readinto(rest):
            pass
        return self._sha256.hexdigest()


class WrittenHashed(io.RawIOBase):
    """A file that is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0
        self._file = path.open("wb")

    def write(self, data: Any) -> int:
        """Writes and counts."""
        self.sha256.update(data)
        self.n_bytes += len(data)
        return self._file.write(data)

    def finish(self) -> None:
        """Closes the file."""
        self._file.close()
