"""`init_from=<checkpoint>`: the weights that a new run starts with are those of another, as far as they fit."""

from typing import TYPE_CHECKING, Any

import torch

from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.checkpoints.export import sha256
from dof_lightning.errors import UserError

if TYPE_CHECKING:  # it imports Lightning, which reading a checkpoint does not need
    from dof_lightning.algorithms.base import Algorithm


@torch.no_grad()
def start_from(algorithm: "Algorithm", source: Checkpoint, typed: str) -> dict[str, Any]:
    """Copies every weight, online, averaged or of a target, whose name and shape are the same in both.

    What is no weight stays the new run's: normalisers and scales of rewards are made from its own dataset, optimisers
    and steps start afresh.

    Args:
        algorithm: freshly built, changed in place.
        source: where the weights come from.
        typed: the value of init_from.

    Returns:
        what `results.json` and checkpoints keep of it: `typed`, `checkpoint`, `sha256`, `step`, `dataset_fingerprint`
        of the source, `loaded`, how many tensors were, and `fresh`, the names of those that were not.

    Raises:
        UserError: nothing fits.
    """
    ours, theirs = dict(algorithm.named_parameters()), source.weights
    fitting = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
    if not fitting:
        raise UserError(
            f"init_from={typed}: none of its weights has the name and shape of one of {type(algorithm).__name__}'s; "
            "choose a checkpoint of a like algorithm and dataset, or leave init_from out"
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


def gone_on_from(checkpoint: Checkpoint, typed: str | None) -> dict[str, Any] | None:
    """What the run whose checkpoint is gone on from was started with, as `start_from` returned it; None for nothing.

    Args:
        checkpoint: of an interrupted run: all of its weights are taken.
        typed: the value of init_from; None says nothing.

    Raises:
        UserError: something else is typed than that run was started with.
    """
    known = checkpoint.init_from
    if typed is not None and (known is None or known["typed"] != typed):
        with_what = "without init_from" if known is None else f"with init_from={known['typed']}"
        raise UserError(
            f"init_from={typed}: training goes on from {checkpoint.path}, which was started {with_what}; leave "
            "init_from out, or start afresh with resume=never and another run_dir="
        )
    return known


def described(record: dict[str, Any]) -> str:
    """For the start screen: which weights a run starts with."""
    fresh = sorted({name.partition(".")[0] for name in record["fresh"]})
    told = f"{record['loaded']} of {record['loaded'] + len(record['fresh'])} tensors of {record['checkpoint']}"
    return f"{told} (step {record['step']:,})" + (f"; fresh in {', '.join(fresh)}" if fresh else "")
