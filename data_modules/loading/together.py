"""Ranks that read for themselves end together: what one cannot read, all of them say."""

from collections.abc import Iterator

import torch
from torch import distributed

from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import SharedError, UserError


def together(batches: Iterator[EpisodeBatch], device: torch.device) -> Iterator[EpisodeBatch]:
    """The batches of this rank, for as long as every rank has one.

    Without this, the other ranks would wait in a collective for one that has ended, and report a broken connection
    instead of a damaged file. It costs one reduction of a number a batch, for which every rank asks in step, on the
    device where the process group's tensors live.

    Raises:
        SharedError: reading failed on some rank; the same on all.
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
            raise SharedError(next(message for message in messages if message))  # of the first rank that has one
        yield batch
