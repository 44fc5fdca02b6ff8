"""What the reported numbers stand on."""

import os

import pytest

from dof_lightning import evaluation


def test_cores_are_known_where_affinity_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert evaluation._available_cores() == os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert evaluation._available_cores() == 3
