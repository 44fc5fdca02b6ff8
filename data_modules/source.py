"""The contract of a dataset that can be made on first use."""

from pathlib import Path
from typing import Protocol

from dof_lightning.envs.base import VectorEnv


class DatasetSource(Protocol):
    """What `conf/data/<name>.yaml` puts under `source`.

    Attributes:
        name: for people and folders.
        environment: where it is collected.
        path: the dataset's folder; it names everything that changes the data, so that no two sources share one.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def environment(self) -> VectorEnv:
        """See the class."""

    @property
    def path(self) -> Path:
        """See the class."""

    def exists(self) -> bool:
        """Whether it is on disk, complete."""

    def ensure(self, progress: bool = True) -> Path:
        """Makes and verifies it unless it is there; returns `path`.

        Raises:
            UserError: the folder is damaged, or cannot be written.
        """
