"""The cores and threads with which scores and times are measured."""

import os

import pytest

from dof_lightning import threads as cores
from dof_lightning.errors import UserError
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


@pytest.mark.parametrize(("told", "threads"), [("", 0), ("3", 3), ("2,1", 2), (" 4 , 2", 4)])
def test_a_list_of_threads_says_how_many_at_its_head(monkeypatch: pytest.MonkeyPatch, told: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cores.threads_asked_for() == threads


@pytest.mark.parametrize("told", ["many", "0", "-1", "2;1"])
def test_what_is_no_number_of_threads_is_one_line(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS={told} must be a number of threads"):
        cores.threads_asked_for()
