"""Makes ranks that read separately end together: all of them report what one of them cannot read."""

from collections.abc import Iterator

import torch
from torch import distributed

from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import SharedError, UserError


def together(batches: Iterator[EpisodeBatch], device: torch.device) -> Iterator[EpisodeBatch]:
    """Yields the batches of this rank for as long as every rank has one.

    Without this, the other ranks would wait in a collective for one that has ended, and report a broken connection
    instead of a damaged file. It costs one reduction of a number per batch, which all ranks request in step, on the
    device of the process group's tensors.

    Raises:
        SharedError: reading failed on some rank; all ranks raise the same error.
    """
    if not distributed.is_initialized():
        yield from batches
        return
    while True:
        batch, failure = None, ""
        try:
            batch = next(batches)
        except UserError as error:
            failure = str(error)
        failed = torch.tensor(batch is None, dtype=torch.int32, device=device)
        distributed.all_reduce(failed, distributed.ReduceOp.MAX)
        if failed or batch is None:
            messages = [""] * distributed.get_world_size()
            distributed.all_gather_object(messages, failure)
            raise SharedError(next(message for message in messages if message))  # the first one's
        yield batch
