"""The context that a callback receives from its run, and the policy that learns in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lightning import LightningModule

from dof_lightning.envs.base import VectorEnv
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import DatasetSpec


def never_asked() -> None:
    """Does nothing: the `check_stop` of a run that no signal can end early."""


@dataclass(frozen=True)
class RunContext:
    """The one argument that completes a callback whose yaml has `_partial_: true`.

    A callback that plays episodes has a class attribute `needs_environment = True`; it is left out if nothing is played
    (rollout=none), because only the environment's spec may be known then.

    Attributes:
        env: the environment in which policies are rolled out.
        spec: the dataset's spec.
        behavior_return: mean return of the policy that made the data; None if it is not known.
        seed: the run's seed.
        folder: the run's folder.
        checkpoints: the folder of its checkpoints.
        global_batch_size: windows in one batch, over all ranks.
        check_stop: called between the parts of a long measurement, within `whole` in the `act` of a
            `Scheduled`; raises `GivenUp` if the run has to end.
    """

    env: VectorEnv
    spec: DatasetSpec
    behavior_return: float | None
    seed: int
    folder: Path
    checkpoints: Path
    global_batch_size: int
    check_stop: Callable[[], None] = never_asked


def policy_of(pl_module: LightningModule) -> DecentralizedPolicy:
    """Returns the current policy; all ranks must call this, because it gathers sharded weights."""
    return cast(Callable[[], DecentralizedPolicy], pl_module.policy)()
