"""Files whose sha256 is known as soon as they have been read or written, without doing it twice."""

import hashlib
import io
from pathlib import Path
from typing import IO, Any

READ_BYTES = 1 << 17  # large, because every read and hash releases the interpreter's lock and has to wait for it again


class ReadHashed(io.RawIOBase):
    """A file that is hashed while it is read.

    Args:
        file: the file to read.
        n_bytes: largest number of bytes that it may have; None means any number.
    """

    def __init__(self, file: IO[bytes], n_bytes: int | None = None) -> None:
        self._file = file
        self._n_bytes, self._read = n_bytes, 0
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer and adds the bytes to the hash.

        Raises:
            ValueError: the file has more bytes than it should.
        """
        size: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._read += size
        if self._n_bytes is not None and self._read > self._n_bytes:
            raise ValueError(f"it has more than its {self._n_bytes} bytes")
        self._sha256.update(memoryview(buffer)[:size])
        return size

    def finish(self) -> str:
        """Reads the rest and returns the sha256 of the whole file, hexadecimal."""
        rest = bytearray(READ_BYTES)
        while self.readinto(rest):
            pass
        return self._sha256.hexdigest()


class WrittenHashed(io.RawIOBase):
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0
        self._file = path.open("wb")

    def write(self, data: Any) -> int:
        """Writes bytes and adds them to the hash."""
        self.sha256.update(data)
        self.n_bytes += len(data)
        return self._file.write(data)

    def finish(self) -> None:
        """Closes the file."""
        self._file.close()
