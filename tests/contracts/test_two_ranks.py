"""One pair of processes trains every algorithm with DDP."""

import os
import subprocess
import sys

from dof_lightning import configuration
from tests.contracts.synthetic import ALGORITHMS


def test_every_algorithm_trains_on_two_ranks() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.contracts.two_ranks"],
        cwd=configuration.CONF_DIR.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.removeprefix("trained ") for line in done.stdout.splitlines() if "trained" in line] == ALGORITHMS
