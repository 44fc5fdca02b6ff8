"""`results.json`: it is sealed when written, and checked against its seal and the format of a run when read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dof_lightning.digest import sealed, unsealed
from dof_lightning.errors import UserError
from dof_lightning.files import write_atomically
from dof_lightning.plain import parse_json
from dof_lightning.schema import Check, anything, mapping, number, one_of, optional, record, text, truth, whole

FORMAT_VERSION = 2  # version 0.1.0 wrote neither this nor a seal


_SCORE = {
    "return_mean": number(),
    "return_std": number(0),
    "normalized_score": optional(number()),
    "own_normalized_score": optional(number()),
    "win_rate": optional(number(0, 1)),
}
_NOT_EVERYWHERE = ("normalized_score", "own_normalized_score", "win_rate", "execution", "shared_seeds")


def _score(fields: Mapping[str, Check]) -> Check:
    """Checks a policy's score, which is absent if no episode was played (rollout=none)."""
    played = record({**_SCORE, **fields}, others=anything, optional_keys=_NOT_EVERYWHERE)
    unplayed = record({"return_mean": anything}, others=anything)

    def check(place: str, value: Any) -> None:
        is_unplayed = isinstance(value, Mapping) and value.get("return_mean", ...) is None
        (unplayed if is_unplayed else played)(place, value)

    return check


_LAST = {
    "episodes": whole(0),
    "certificate": record({"passed": truth}, others=anything),
    "execution": optional(one_of("decentralized", "centralized")),
    "shared_seeds": optional(whole(0)),
}
_OF_A_RUN = record(
    {
        "seed": whole(0, 2**64),
        "steps": whole(0),
        "windows": whole(0),
        "dataset_fingerprint": text,
        "wall_seconds": number(0),
        "peak_memory_mb": number(0),
        "started_at": optional(number(0)),
        "device": optional(text),
        "last": _score(_LAST),
        "best": _score({}),
        "behavior": _score({}),
    },
    others=anything,
    optional_keys=("started_at", "device"),  # earlier versions wrote none
)


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the results of a run or a study, sealed; a killed process leaves the old file or the new one."""
    content = sealed({"format_version": FORMAT_VERSION, **results})
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """Reads the results of a run or a study; those of version 0.1.0, which have no seal, are accepted.

    Raises:
        UserError: the file is damaged, or its content is not what was written.
    """
    return _read(path, anything)


def read_results_of_run(path: Path) -> dict[str, Any]:
    """Reads the results of a run and checks every value that is used for the type and range that runs write.

    Raises:
        UserError: as in `read_results`, or a value is missing or impossible.
    """
    return _read(path, _OF_A_RUN)


def _read(path: Path, check: Check) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
        mapping("it", content)
        results = unsealed(content, owed="format_version" in content)
        check("", results)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}; delete it, and the run's own command evaluates again") from error
    return results
