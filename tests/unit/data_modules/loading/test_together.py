"""A file that one rank cannot read ends all of them, with the same message."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from data_modules.loading.together import together
from dof_lightning.errors import UserError
from tests.fixtures.processes import exit_code, start

RANKS = 2


def batches(failing: bool) -> Iterator[int]:
    yield from range(3)
    if failing:
        raise UserError("shard-000007.tar is damaged")
    yield from range(3, 9)


def read(folder: Path, rank: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    seen = []
    try:
        for batch in together(batches(failing=rank == 1), torch.device("cpu")):
            seen.append(batch)
    except UserError as error:
        (folder / f"{rank}.txt").write_text(f"{seen} {error}")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_what_one_rank_cannot_read_ends_all(tmp_path: Path) -> None:
    processes = [start(read, tmp_path, rank) for rank in range(RANKS)]
    assert [exit_code(process) for process in processes] == [0] * RANKS
    for rank in range(RANKS):
        assert (tmp_path / f"{rank}.txt").read_text() == "[0, 1, 2] shard-000007.tar is damaged"


def test_one_process_needs_no_agreement() -> None:
    failing = together(batches(failing=True), torch.device("cpu"))
    assert [next(failing) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"shard-000007\.tar is damaged"):
        next(failing)
