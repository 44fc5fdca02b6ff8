"""The contract of a dataset that can be made on first use."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from dof_lightning.envs.base import VectorEnv


@dataclass(frozen=True)
class DatasetSource(ABC):
    """The source of a dataset, configured under `source` in `conf/data/<name>.yaml`.

    Args:
        name: a name for people and folders, e.g. `mpe_spread_expert`.
        environment: spec of the environment in which it is collected.
    """

    name: str
    environment: VectorEnv

    @property
    @abstractmethod
    def path(self) -> Path:
        """The dataset's folder; its name identifies everything that changes the data: no two sources share it."""

    def exists(self) -> bool:
        """Whether the complete dataset is on disk."""
        return (self.path / "dataset.json").exists()

    @abstractmethod
    def ensure(self, progress: bool = True) -> Path:
        """Makes and verifies the dataset unless it exists; returns `path`.

        Args:
            progress: whether to show progress bars.

        Raises:
            UserError: the folder is damaged, or the dataset cannot be made or written here.
        """
