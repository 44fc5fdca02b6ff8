"""The anonymous resident memory of a process and those it started: what has to fit into the machine (Linux)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread


def anonymous_mb(process: int | str = "self") -> float:
    """`RssAnon` of a process and all its descendants, in 10^6 bytes, where what forked processes share counts once.

    Those that have ended count nothing.
    """
    folder = Path("/proc") / str(process)
    try:
        rollup = (folder / "smaps_rollup").read_text(encoding="utf-8")
        children = [
            child
            for task in (folder / "task").iterdir()
            for child in (task / "children").read_text(encoding="utf-8").split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = [int(line.split()[1]) * 1024 / 1e6 for line in rollup.splitlines() if line.startswith("Pss_Anon:")]
    return sum(own) + sum(anonymous_mb(child) for child in children)


@dataclass
class Growth:
    """What memory did in a while.

    Attributes:
        before_mb: at the start.
        peak_mb: the largest value seen.
    """

    before_mb: float
    peak_mb: float

    @property
    def mb(self) -> float:
        """From the start to the peak."""
        return self.peak_mb - self.before_mb


@contextmanager
def watched(every_s: float = 0.02) -> Iterator[Growth]:
    """Looks at this process's memory every so often; a shorter peak may be missed."""
    before = anonymous_mb()
    growth, ended = Growth(before, before), Event()

    def look() -> None:
        while not ended.wait(every_s):
            growth.peak_mb = max(growth.peak_mb, anonymous_mb())

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        ended.set()
        thread.join()
        growth.peak_mb = max(growth.peak_mb, anonymous_mb())
