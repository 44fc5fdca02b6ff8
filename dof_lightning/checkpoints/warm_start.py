"""`init_from=<checkpoint>`: a new run starts with the weights of another, as far as they fit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dof_lightning.checkpoints.checkpoint import Checkpoint, read
from dof_lightning.checkpoints.location import find_checkpoint
from dof_lightning.errors import UserError
from dof_lightning.files import sha256

if TYPE_CHECKING:  # it imports Lightning, which reading a checkpoint does not need
    from dof_lightning.algorithms.base import Algorithm


@torch.no_grad()
def start_from(algorithm: "Algorithm", source: Checkpoint, typed: str) -> dict[str, Any]:
    """Copies every weight (online, averaged or of a target) whose name and shape are the same in both.

    Everything else stays the new run's: normalisers and scales of rewards are made from its own dataset, optimisers
    and steps start afresh.

    Args:
        algorithm: freshly built, changed in place.
        source: the checkpoint with the weights.
        typed: the value of init_from.

    Returns:
        the record that `results.json` and checkpoints keep: `typed`; `checkpoint`, `sha256`, `step` and
        `dataset_fingerprint` of the source; `loaded`, the number of tensors copied; `fresh`, the names of the others.

    Raises:
        UserError: no weight fits.
    """
    ours, theirs = dict(algorithm.named_parameters()), source.weights
    fitting = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
    if not fitting:
        raise UserError(
            f"init_from={typed}: none of its weights has the name and shape of one of {type(algorithm).__name__}'s; "
            "choose a checkpoint of a similar algorithm and dataset, or leave init_from out"
        )
    for name in fitting:
        ours[name].copy_(theirs[name])
    return {
        "typed": typed,
        "checkpoint": str(source.path),
        "sha256": sha256(source.path),
        "step": source.step,
        "dataset_fingerprint": source.spec.fingerprint,
        "loaded": len(fitting),
        "fresh": sorted(ours.keys() - set(fitting)),
    }


def beginning(typed: str | None, resumed_from: Checkpoint | None) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """Finds the weights that a run starts with, as far as they are known before data exist.

    Args:
        typed: the value of init_from; None if it is not set.
        resumed_from: the checkpoint of an interrupted run, all of whose weights are taken; None for a fresh run.

    Returns:
        the checkpoint a fresh run takes weights from, and the record of a resumed run's start; None for neither.

    Raises:
        UserError: the checkpoint of init_from cannot be read, or the resumed run was started with other weights.
    """
    if resumed_from is None:
        return None if typed is None else read(find_checkpoint(Path(typed), "init_from")), None
    known = resumed_from.init_from
    if typed is not None and (known is None or known["typed"] != typed):
        with_what = "without init_from" if known is None else f"with init_from={known['typed']}"
        raise UserError(
            f"init_from={typed}: training resumes from {resumed_from.path}, which was started {with_what}; leave "
            "init_from out, or start afresh with resume=never and another run_dir="
        )
    return None, known


def described(record: dict[str, Any] | None, done: int | None) -> str:
    """The start screen's text on the weights that a run starts with, or on the number of steps done."""
    if done is not None:
        return f"resumed from step {done:,}"
    if record is None:
        return "from the start"
    fresh = sorted({name.partition(".")[0] for name in record["fresh"]})
    source = f"{record['loaded']} of {record['loaded'] + len(record['fresh'])} tensors of {record['checkpoint']}"
    return f"from {source} (step {record['step']:,})" + (f"; fresh in {', '.join(fresh)}" if fresh else "")
