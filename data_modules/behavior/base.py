"""The contract of behaviour policies for datasets that we collect."""

from abc import ABC, abstractmethod
from typing import Any

from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec


class Behavior(ABC):
    """Policies that make a dataset, and their identity in its recipe.

    Attributes:
        name: e.g. `expert`; the streams of seeds and noise are named after it.
    """

    name: str

    @abstractmethod
    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """Everything about the policies that changes the data; JSON values only.

        Raises:
            UserError: the behaviour cannot act in this environment.
        """

    @abstractmethod
    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """The policies, which collect equal shares of the episodes.

        Raises:
            UserError: see `identity`.
        """
