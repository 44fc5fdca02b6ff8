"""Journal of the episodes that have been distributed to files, so that a killed import resumes where it was."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from dof_lightning.files import write_atomically

_FILE = "journal.json"


@dataclass(frozen=True)
class Dealt:
    """The episodes that have been distributed.

    Attributes:
        episodes: their number, counted in the source's own order.
        names: the arrays of an episode.
        sizes: bytes of each file.
    """

    episodes: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]


class Journal:
    """A file beside the others with one line of JSON, which is replaced after every buffer.

    Args:
        folder: the folder of the files.
        key: identifies the data that are written; files of another key are deleted.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = folder, key
        self.dealt = self._load()
        if self.dealt is None:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, episodes: int, names: list[str], files: list[Path]) -> None:
        """Records that the files are complete up to here."""
        sizes = tuple(file.stat().st_size if file.exists() else 0 for file in files)
        self.dealt = Dealt(episodes, tuple(names), sizes)
        write_atomically(self.folder / _FILE, json.dumps({"key": self._key, **asdict(self.dealt)}))

    def restore(self, files: list[Path]) -> None:
        """Cuts off everything written after the last record."""
        assert self.dealt is not None
        for file, size in zip(files, self.dealt.sizes, strict=True):
            if file.exists():
                os.truncate(file, size)

    def remove(self) -> None:
        """Removes the journal and its files once all episodes are stored."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self) -> Dealt | None:
        try:
            note = json.loads((self.folder / _FILE).read_text(encoding="utf-8"))
            if note["key"] != self._key:
                return None
            dealt = Dealt(int(note["episodes"]), tuple(note["names"]), tuple(note["sizes"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        files = (self.folder / f"{number:04d}" for number in range(len(dealt.sizes)))
        found = [file.stat().st_size if file.exists() else 0 for file in files]
        return dealt if all(map(int.__ge__, found, dealt.sizes)) else None
