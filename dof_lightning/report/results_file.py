"""`results.json` of a finished run, as far as a report reads it, held against what a run writes."""

from typing import Any

from dof_lightning.errors import UserError
from dof_lightning.schema import anything, number, one_of, optional, record, text, truth, whole
from dof_lightning.training.run_folder import RunFolder

_SCORE = {
    "return_mean": number(),
    "return_std": number(0),
    "normalized_score": optional(number()),
    "own_normalized_score": optional(number()),
    "win_rate": optional(number(0, 1)),
}
_LAST = {
    **_SCORE,
    "episodes": whole(0),
    "certificate": record({"passed": truth}, others=anything),
    "execution": optional(one_of("decentralized", "centralized")),
    "shared_seeds": optional(whole(0)),
}
_NOT_EVERYWHERE = ("normalized_score", "own_normalized_score", "win_rate", "execution", "shared_seeds")
_RESULTS = record(
    {
        "seed": whole(0),
        "steps": whole(0),
        "windows": whole(0),
        "dataset_fingerprint": text,
        "wall_seconds": number(0),
        "peak_memory_mb": number(0),
        "started_at": optional(number(0)),
        "device": optional(text),
        "last": record(_LAST, others=anything, optional_keys=_NOT_EVERYWHERE),
        "best": record(_SCORE, others=anything, optional_keys=_NOT_EVERYWHERE),
        "behavior": record(_SCORE, others=anything, optional_keys=_NOT_EVERYWHERE),
    },
    others=anything,
    optional_keys=("started_at", "device"),  # earlier versions wrote none
)


def read_scores(folder: RunFolder) -> dict[str, Any]:
    """A run's `results.json`, with every value that a report reads of the type and range that runs write.

    Raises:
        UserError: it is damaged, or of a run that played nothing.
    """
    results = folder.read_results()
    if results["last"]["return_mean"] is None:
        raise UserError(f"{folder.path} was trained with rollout=none: it has no scores to report")
    try:
        _RESULTS("", results)
    except ValueError as error:
        raise UserError(
            f"{folder.results} is damaged: {error}; delete it, and the run's own command evaluates again"
        ) from error
    return results
