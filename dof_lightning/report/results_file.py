"""`results.json` of a finished run, read against what a run writes."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dof_lightning.errors import UserError


def read_results(path: Path) -> dict[str, Any]:
    """A run's `results.json`, with every value that a report reads of the type and range that runs write.

    Raises:
        UserError: it is damaged, or of a run that played nothing.
    """
    try:
        results = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _damaged(path, " ".join(str(error).split())) from error
    if _mapping(_at(results, "last")).get("return_mean", ...) is None:
        raise UserError(f"{path.parent} was trained with rollout=none: it has no scores to report")
    for key, (kind, needed) in _SCHEMA.items():
        value = _at(results, key)
        if value is None and not needed:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: {key} is {value}, which no mean can be taken of; such a run cannot be reported")
        if not _KINDS[kind](value):
            raise _damaged(path, f"{key} is {'missing' if value is None else repr(value)[:60]}, not {kind}")
    return dict(results)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); delete it and start the run's command again: it evaluates anew")


def _at(node: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for part in key.split("."):
        node = _mapping(node).get(part)
    return node


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_COUNT, _NUMBER, _LENGTH, _TEXT, _TRUTH = "a count", "a number", "a number of at least 0", "a text", "true or false"
_SHARE, _ACTS = "a number from 0 to 1", "decentralized or centralized"
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    _COUNT: lambda value: type(value) is int and value >= 0,
    _NUMBER: _is_number,
    _LENGTH: lambda value: _is_number(value) and value >= 0,
    _SHARE: lambda value: _is_number(value) and 0 <= value <= 1,
    _TEXT: lambda value: isinstance(value, str),
    _TRUTH: lambda value: isinstance(value, bool),
    _ACTS: lambda value: value in ("decentralized", "centralized"),
}
_SCORE = {
    "return_mean": (_NUMBER, True),
    "return_std": (_LENGTH, True),
    "normalized_score": (_NUMBER, False),
    "own_normalized_score": (_NUMBER, False),
    "win_rate": (_SHARE, False),
}
_SCHEMA: Mapping[str, tuple[str, bool]] = {  # kind, and whether it has to be there
    "seed": (_COUNT, True),
    "steps": (_COUNT, True),
    "windows": (_COUNT, True),
    "dataset_fingerprint": (_TEXT, True),
    "wall_seconds": (_LENGTH, True),
    "peak_memory_mb": (_LENGTH, True),
    "started_at": (_LENGTH, False),
    "device": (_TEXT, False),
    "last.episodes": (_COUNT, True),
    "last.certificate.passed": (_TRUTH, True),
    "last.execution": (_ACTS, False),
    "last.shared_seeds": (_COUNT, False),
    **{f"{part}.{name}": kind for part in ("last", "best", "behavior") for name, kind in _SCORE.items()},
}
