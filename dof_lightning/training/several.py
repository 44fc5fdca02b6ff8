"""What several runs have in common, be they a study's or a suite's: how each is named, and what all must do."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dof_lightning.config.compose import rolls_out
from dof_lightning.errors import UserError


def folder_name(labels: Iterable[str], seed: int) -> str:
    """Of one of several runs: its labels and its seed, in characters that every file system takes."""
    return "__".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in (*labels, f"seed_{seed}"))


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that is there twice; None where all differ."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def key_of(override: str) -> str:
    """What an override sets, however Hydra lets it be typed: `key=`, `+key=`, `~key`, `key@package=`."""
    return re.split("[=@]", override.strip().lstrip("+~"))[0]


def check_played(config: Mapping[str, Any], what: str) -> None:
    """Refuses a run that would have nothing to compare.

    Raises:
        UserError: it plays nothing.
    """
    if not rolls_out(config):
        raise UserError(f"{what} compares what is played, and rollout=none plays nothing; say rollout=default")
