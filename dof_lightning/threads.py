"""How many of this machine's cores a process may use."""

import os
from collections.abc import Mapping
from typing import Any

from dof_lightning.errors import UserError

CORES_UNTOLD = "submitit starts all jobs at once: say hydra.launcher.cpus_per_task=<cores of a job>"


def available_cores() -> int:
    """Those that this process may use; macOS cannot tell, and all count there."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_asked_for() -> int:
    """What `OMP_NUM_THREADS` says, of a list (`2,1`) the outermost level; 0 where it says nothing.

    Raises:
        UserError: it is no number.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    outermost = told.partition(",")[0].strip()
    if outermost and not (outermost.isdecimal() and int(outermost) > 0):
        raise UserError(f"OMP_NUM_THREADS={told} must be a number of threads, at least 1, or a list of them: 2,1")
    return int(outermost or 0)


def cores_of_a_job(launcher: Mapping[str, Any]) -> int:
    """What each job of a Hydra launcher may use, so that those on one machine do not use more than there are.

    Raises:
        UserError: submitit was not told.
    """
    if "n_jobs" in launcher:  # joblib; -1: as many as cores
        return max(1, available_cores() // launcher["n_jobs"]) if launcher["n_jobs"] > 0 else 1
    if "submitit" not in launcher["_target_"]:
        return available_cores()
    if (asked_for := launcher.get("cpus_per_task")) is None:
        raise UserError(CORES_UNTOLD)
    return int(asked_for)
