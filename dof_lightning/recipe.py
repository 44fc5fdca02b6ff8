"""Recipes: the plain values that identify data and environments."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dof_lightning.errors import UserError


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the sha256 of a recipe's canonical JSON.

    A recipe holds everything that changes the meaning of data; the integrity of files is checked separately (one sha256
    per shard).

    Raises:
        UserError: a number in the recipe is not finite.
    """
    check_finite(recipe)
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_finite(values: Any, key: str = "") -> None:
    """Refuses numbers that JSON cannot hold in what becomes a recipe.

    Args:
        values: nested mappings and sequences.
        key: the values' dotted key, for the message.

    Raises:
        UserError: a number is infinite or NaN; the message names its key.
    """
    if isinstance(values, float) and not math.isfinite(values):
        raise UserError(f"{key}={values} must be a finite number: it is part of what the data are known by")
    if isinstance(values, Mapping):
        for name, value in values.items():
            check_finite(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, Sequence) and not isinstance(values, str):
        for index, value in enumerate(values):
            check_finite(value, f"{key}[{index}]")
