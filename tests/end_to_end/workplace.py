"""A folder to run the project's commands in, as a user would."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "experiment=mpe_spread_random",
    "debug=default",
    "denoiser.hidden=[16,16]",
    "algorithm.critic.hidden=[16,16]",
    "schedule.steps=5",
    "sampler.steps=2",
    "algorithm.target_sampler.steps=2",
    "algorithm.candidates=2",
)


@dataclass(frozen=True)
class Workplace:
    """Where commands run.

    Attributes:
        path: the working folder; datasets lie in `path/data`.
    """

    path: Path

    def start_training(self, *overrides: str) -> subprocess.Popen:
        """`python train.py`, not waited for."""
        command = [sys.executable, str(ROOT / "train.py"), *overrides]
        return subprocess.Popen(
            command, cwd=self.path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def train(self, *overrides: str, seconds: float = 300) -> subprocess.CompletedProcess:
        """`python train.py`."""
        return self._run([sys.executable, str(ROOT / "train.py"), *overrides], seconds)

    def dof(self, *arguments: str) -> subprocess.CompletedProcess:
        """The `dof` command."""
        program = "from dof_lightning.cli import main; main()"
        return self._run([sys.executable, "-c", program, *arguments])

    def results(self, run_dir: str) -> dict[str, Any]:
        results: dict[str, Any] = json.loads((self.path / run_dir / "results.json").read_text())
        return results

    def checkpoint(self, run_dir: str, name: str = "last") -> dict[str, Any]:
        path = self.path / run_dir / "checkpoints" / f"{name}.ckpt"
        content: dict[str, Any] = torch.load(path, weights_only=True)
        return content

    def _run(self, command: list[str], seconds: float = 300) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.path, env=environment(), capture_output=True, text=True, timeout=seconds, check=False
        )


def environment() -> dict[str, str]:
    """Of the commands: one thread each, and nothing of the user's own data."""
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    return {key: value for key, value in os.environ.items() if not key.startswith("DOF_")} | ours


def succeeded(done: subprocess.CompletedProcess) -> str:
    """What a command printed; fails with its complaint where it did not end well."""
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return str(done.stdout)
