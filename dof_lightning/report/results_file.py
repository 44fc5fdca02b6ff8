"""`results.json` of a finished run, as far as a report reads it, held against what a run writes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from dof_lightning.errors import UserError
from dof_lightning.training.run_folder import RunFolder


def read_scores(folder: RunFolder) -> dict[str, Any]:
    """A run's `results.json`, with every value that a report reads of the type and range that runs write.

    Raises:
        UserError: it is damaged, or of a run that played nothing.
    """
    results = folder.read_results()
    if _at(results, "last.return_mean") is None:
        raise UserError(f"{folder.path} was trained with rollout=none: it has no scores to report")
    for key, (kind, needed) in _SCHEMA.items():
        value = _at(results, key)
        if not _KINDS[kind](value) and (needed or value is not None):
            told = "missing" if value is None else repr(value)[:60]
            raise UserError(
                f"{folder.results} is damaged: {key} is {told}, not {kind}; delete it, and the run's own command "
                f"evaluates again"
            )
    return results


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
