"""Fixtures of the whole suite: composed configurations, a pair of processes, signals as in the foreground."""

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig

import dof_lightning  # noqa: F401  # before torch, so that its threads sleep while they wait
from dof_lightning.config import compose as configuration

_compose_once = cache(configuration.compose)
_collected = False


def _compose(overrides: Sequence[str]) -> DictConfig:
    assert _collected, "compose in a test or a fixture: each process collects all tests, and a composition takes 0.2 s"
    return copy.deepcopy(_compose_once(tuple(overrides)))


configuration.compose = _compose


def pytest_collection_finish() -> None:
    global _collected
    _collected = True


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """Restores the signals that a job in the background (`nohup`, `&`) ignores and hands on to its children."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """Runs all measurements on two ranks in one pair of processes; returns their folder, and the finished process."""
    folder = tmp_path_factory.mktemp("two_ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.fixtures.two_ranks", str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return folder, done
