"""The contract of a dataset that can be made on first use."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from dof_lightning.envs.base import VectorEnv


@dataclass(frozen=True)
class DatasetSource(ABC):
    """What `conf/data/<name>.yaml` puts under `source`.

    Args:
        name: for people and folders, e.g. `mpe_spread_expert`.
        environment: where it is collected, as our environments describe it.
    """

    name: str
    environment: VectorEnv

    @property
    @abstractmethod
    def path(self) -> Path:
        """The dataset's folder; it names everything that changes the data, so that no two sources share one."""

    def exists(self) -> bool:
        """Whether it is on disk, complete."""
        return (self.path / "dataset.json").exists()

    @abstractmethod
    def ensure(self, progress: bool = True) -> Path:
        """Makes and verifies it unless it is there; returns `path`.

        Args:
            progress: show progress bars.

        Raises:
            UserError: the folder is damaged, or it cannot be made or written here.
        """
