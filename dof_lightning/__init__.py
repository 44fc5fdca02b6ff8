"""dof-lightning: offline multi-agent reinforcement learning with factorised diffusion models.

The public names are imported when they are first used, so that `import dof_lightning` and `dof --help` take no time
and `OMP_WAIT_POLICY` is set before torch is loaded.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_modules.episodes import EpisodeDataModule
    from dof_lightning.algorithms.dof import DoFLightningModule
    from dof_lightning.algorithms.dof_policy import DoFPolicy, DoFPolicySettings
    from dof_lightning.algorithms.dof_trajectory import DoFTrajectory, DoFTrajectorySettings
    from dof_lightning.api import evaluate, load_algorithm, make_dataset, make_env, train
    from dof_lightning.deployment.agent import load_agent

__version__ = "0.1.0"

__all__ = [
    "DoFLightningModule",
    "DoFPolicy",
    "DoFPolicySettings",
    "DoFTrajectory",
    "DoFTrajectorySettings",
    "EpisodeDataModule",
    "evaluate",
    "load_agent",
    "load_algorithm",
    "make_dataset",
    "make_env",
    "train",
]

# Read when torch loads OpenMP. Threads that spin while they wait make two processes on the same cores twenty times
# slower than one after the other (measured: 3 against 75 small updates a second); sleeping ones share them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "DoFLightningModule": "dof_lightning.algorithms.dof",
    "DoFPolicy": "dof_lightning.algorithms.dof_policy",
    "DoFPolicySettings": "dof_lightning.algorithms.dof_policy",
    "DoFTrajectory": "dof_lightning.algorithms.dof_trajectory",
    "DoFTrajectorySettings": "dof_lightning.algorithms.dof_trajectory",
    "EpisodeDataModule": "data_modules.episodes",
    "evaluate": "dof_lightning.api",
    "load_agent": "dof_lightning.deployment.agent",
    "load_algorithm": "dof_lightning.api",
    "make_dataset": "dof_lightning.api",
    "make_env": "dof_lightning.api",
    "train": "dof_lightning.api",
}

if not TYPE_CHECKING:  # a type checker that saw it would accept any name as one of ours

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
