"""Names and checks shared by the runs of a study and of a suite."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dof_lightning.config.compose import rolls_out
from dof_lightning.errors import UserError


def folder_name(labels: Iterable[str], seed: int) -> str:
    """The folder name of one of several runs: its labels and its seed, in characters valid on every file system."""
    return "__".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in (*labels, f"seed_{seed}"))


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs twice; None if all differ."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def key_of(override: str) -> str:
    """The key that an override sets, in every form that Hydra accepts: `key=`, `+key=`, `~key`, `key@package=`."""
    return re.split("[=@]", override.strip().lstrip("+~"))[0]


def check_played(config: Mapping[str, Any], what: str) -> None:
    """Refuses a run that would have nothing to compare.

    Raises:
        UserError: the run plays no episodes.
    """
    if not rolls_out(config):
        raise UserError(f"{what} compares rollouts, and rollout=none plays nothing; set rollout=default")
