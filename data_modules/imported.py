"""Datasets that others have collected and `dof data import` has written."""

from dataclasses import dataclass
from pathlib import Path

from data_modules.source import DatasetSource
from data_modules.storage.manifest import read_manifest
from dof_lightning.errors import UserError


@dataclass(frozen=True)
class ImportedDataset(DatasetSource):
    """A dataset that cannot be collected here: the user downloads and imports it once.

    Args:
        name, environment: see `DatasetSource`; the folder has this name.
        root: folder of all datasets.
        origin: description of the download, for people.
        format: the published format, as `dof data import` names it.
    """

    root: str
    origin: str
    format: str

    @property
    def path(self) -> Path:
        """The dataset's folder."""
        return Path(self.root) / self.name

    def ensure(self, progress: bool = True) -> Path:
        """Checks that the dataset exists, which takes no time.

        Raises:
            UserError: the dataset is missing, and the message explains how to import it; or it is damaged.
        """
        if not self.exists():
            raise UserError(
                f"{self.path} is missing: download {self.origin}, then dof data import format={self.format} "
                f"source=<what was downloaded> env={self.environment.spec.name} name={self.name} data.root={self.root}"
            )
        read_manifest(self.path)
        return self.path
