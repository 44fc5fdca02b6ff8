"""The contract on two ranks: one pair of processes trains every algorithm with DDP."""

import subprocess
from pathlib import Path

import pytest

from tests.fixtures.synthetic import ALGORITHMS


@pytest.mark.slow
def test_every_algorithm_trains_on_two_ranks(two_ranks: tuple[Path, subprocess.CompletedProcess]) -> None:
    _, done = two_ranks
    assert [line.removeprefix("trained ") for line in done.stdout.splitlines() if "trained" in line] == ALGORITHMS, (
        done.stderr[-3000:]
    )
    assert done.returncode == 0, done.stderr[-3000:]
