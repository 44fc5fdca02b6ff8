"""What the reported numbers stand on."""

import os

import pytest

from dof_lightning import threads as cores
from dof_lightning.evaluation import score as evaluation


def test_cores_are_known_where_affinity_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores.available_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("asked_for", "slurm", "threads"),
    [(0, False, 2), (5, False, 5), (0, True, 8), (5, True, 5)],
    ids=["a share of the machine", "what OMP_NUM_THREADS says", "a SLURM task's own cores", "both"],
)
def test_threads_are_shared_out_once(
    monkeypatch: pytest.MonkeyPatch, asked_for: int, slurm: bool, threads: int
) -> None:
    monkeypatch.setattr(evaluation, "_ASKED_FOR", asked_for)
    monkeypatch.setattr(evaluation, "available_cores", lambda: 8)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    if slurm:
        monkeypatch.setenv("SLURM_PROCID", "0")
    assert evaluation.cores_per_process(4) == threads
