"""The sbatch file of docs/guide/devices.md, in bash: starts what the project reads and resumes what ran out of time."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from dof_lightning.config import compose as configuration
from dof_lightning.training.strategies import as_launched
from tests.fixtures.workplace import ROOT

HEADER = ["0-4", "1", "4"]  # array, nodes, tasks per node
STAND_IN = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" >> "$CALLS"
exit $CODE
"""


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (2, False)])
def test_the_sbatch_file_of_the_page_starts_what_it_says_and_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, requeued: bool
) -> None:
    page = (ROOT / "docs" / "guide" / "devices.md").read_text().partition("## SLURM")[2]
    script = page.split("```bash\n")[1].partition("```")[0].replace("/shared", str(tmp_path))
    assert re.findall(r"^#SBATCH --(?:ntasks-per-node|nodes|array)=(\S+)", script, flags=re.MULTILINE) == [
        "0-4",
        "1",
        "4",
    ]
    activate = tmp_path / "dof" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={tmp_path}:$PATH\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    of_slurm = {
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_JOB_ID": "77",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "4",
    }
    there = {"PATH": os.environ["PATH"], "CALLS": str(tmp_path / "calls"), "CODE": str(code)}
    done = subprocess.run(["bash", "-c", script], env=there | of_slurm, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    calls = (tmp_path / "calls").read_text().split("\n")[:-1]
    assert calls[:4] == ["srun", "--kill-on-bad-exit=1", "python", "train.py"]
    assert calls[-3:] == ["scontrol", "requeue", "77"] if requeued else "scontrol" not in calls
    typed = calls[4 : -3 if requeued else None]
    cfg = configuration.compose(typed)
    assert (cfg.seed, cfg.run_dir) == (3, f"{tmp_path}/runs/mine_3")
    for name, value in (of_slurm | {"SLURM_PROCID": "3"}).items():
        monkeypatch.setenv(name, value)
    trainer = as_launched({"trainer": {"devices": cfg.trainer.devices, "num_nodes": cfg.trainer.num_nodes}})["trainer"]
    assert (trainer["devices"], trainer["num_nodes"]) == (4, 1)
