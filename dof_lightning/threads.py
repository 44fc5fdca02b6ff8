"""The number of this machine's cores that a process may use."""

import os
from collections.abc import Mapping
from typing import Any

from dof_lightning.errors import UserError

CORES_UNKNOWN = "submitit starts all jobs at once: set hydra.launcher.cpus_per_task=<cores of a job>"


def available_cores() -> int:
    """The number of cores that this process may use; macOS does not report it, so all cores count there."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_asked_for() -> int:
    """The value of `OMP_NUM_THREADS`, the outermost level of a list (`2,1`); 0 if it is not set.

    Raises:
        UserError: the value is not a number.
    """
    requested = os.environ.get("OMP_NUM_THREADS", "")
    outermost = requested.partition(",")[0].strip()
    if outermost and not (outermost.isdecimal() and int(outermost) > 0):
        raise UserError(f"OMP_NUM_THREADS={requested} must be a number of threads, at least 1, or a list of them: 2,1")
    return int(outermost or 0)


def cores_of_a_job(launcher: Mapping[str, Any]) -> int:
    """The cores that each job of a Hydra launcher may use, so that jobs on one machine share its cores.

    Raises:
        UserError: submitit's number of cores is not set.
    """
    if "n_jobs" in launcher:  # joblib; -1: as many as cores
        return max(1, available_cores() // launcher["n_jobs"]) if launcher["n_jobs"] > 0 else 1
    if "submitit" not in launcher["_target_"]:
        return available_cores()
    if (asked_for := launcher.get("cpus_per_task")) is None:
        raise UserError(CORES_UNKNOWN)
    return int(asked_for)
