"""An environment that is known from its data alone."""

from typing import NoReturn

import numpy as np
from torch import Tensor

from dof_lightning.envs.base import StepResult, VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec


class RecordedEnv(VectorEnv):
    """A world described by a dataset's agents, observations and actions; it cannot be played.

    Args:
        spec: the spec of the world that the dataset was collected in.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec

    @property
    def missing(self) -> str:
        """See the base class."""
        return "experiment=none names no environment; type env=<the one that the data came from>"

    @property
    def can_render(self) -> bool:
        """See the base class."""
        return False

    def reset(self, seeds: Tensor) -> Tensor:
        """Raises UserError: nothing can be played."""
        self._refuse()

    def step(self, actions: Tensor) -> StepResult:
        """Raises UserError: nothing can be played."""
        self._refuse()

    def render(self, index: int) -> np.ndarray:
        """Raises UserError: nothing can be played."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(f"{self.spec.name} cannot be played: {self.missing}")
