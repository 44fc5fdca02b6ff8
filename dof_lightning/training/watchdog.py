"""A watchdog in every process, so that no rank waits for ever when another of its job has died."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen

from dof_lightning.config.command_line import for_hydra, for_shell

LOST_PEER_EXIT_CODE = 1
LAUNCHER_VARIABLE = "DOF_LAUNCHER"  # rank zero's process, for the ranks that it starts

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_END = 5.0  # time for a rank to report an error of its own
_SIGNS_OF_A_LOST_PEER = re.compile(
    r"Connection (closed|reset) by peer|Connection refused|Timed out waiting \d+ms|Socket Timeout|NCCL [^\n.]*|gloo/\S*"
)


def sign_of_lost_peer(error: BaseException) -> str | None:
    """The part of an error about another rank that no longer answers; None if the error has another cause."""
    sign = _SIGNS_OF_A_LOST_PEER.search(str(error)) if isinstance(error, (RuntimeError, OSError)) else None
    return sign and sign[0]


def farewell(reason: str, run_dir: str) -> str:
    """One line that reports what happened, and how to resume."""
    again = for_shell(for_hydra("run_dir", run_dir))
    return f"error: {reason}, this job ends; the same command with {again} resumes from its last checkpoint\n"


@contextmanager
def watching_parent(run_dir: str) -> Iterator[None]:
    """Ends this process if the one that started it (rank zero, or torchrun) dies meanwhile.

    A process that a user has started is not watched: it may outlive its shell. The message names `run_dir`.
    """
    over, by_torchrun = threading.Event(), "TORCHELASTIC_RUN_ID" in os.environ
    # A rank whose parent died before this point has another parent by now.
    started_by = os.getppid() if by_torchrun else int(os.environ.get(LAUNCHER_VARIABLE, os.getppid()))

    def look() -> str | None:
        return None if os.getppid() == started_by else f"process {started_by}, which started this rank, is gone"

    if by_torchrun or os.environ.get("LOCAL_RANK", "0") != "0":
        _start(look, run_dir, over, ())
    try:
        yield
    finally:
        over.set()


def watch_children(children: Sequence[Popen], run_dir: str) -> None:
    """Ends this process and its children, ranks 1, 2, ... here, if one of them dies; others may end normally."""

    def look() -> str | None:
        for rank, child in enumerate(children, start=1):
            if code := child.poll():
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"rank {rank} on this machine (process {child.pid}) has ended with {how}"
        return None

    _start(look, run_dir, threading.Event(), children)


def _start(look: Callable[[], str | None], run_dir: str, over: threading.Event, children: Sequence[Popen]) -> None:
    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            if reason := look():
                # A rank that waits in a collective runs no signal handler, so the process is ended from here.
                if not over.wait(_SECONDS_TO_END):
                    sys.stderr.write(farewell(reason, run_dir))
                    sys.stderr.flush()
                    for child in children:
                        child.kill()
                    os._exit(LOST_PEER_EXIT_CODE)
                return

    threading.Thread(target=watch, name="peers", daemon=True).start()
