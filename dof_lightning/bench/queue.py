"""The queue, which starts a suite's runs, several at a time, and skips those that are done."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dof_lightning.bench.job import BUSY, command, compose, dataset_of, is_stored
from dof_lightning.bench.suite import Job, Suite
from dof_lightning.config.compose import to_plain
from dof_lightning.config.identity import config_hash
from dof_lightning.errors import UserError
from dof_lightning.report.store import ResultsStore
from dof_lightning.threads import available_cores
from dof_lightning.training.several import check_played

_LOOK_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Place:
    """The place of a suite (`which`, as it was typed): its store, its run folders, and whether these are kept."""

    which: str
    suite: Suite
    store: Path
    runs: Path
    keep: bool

    def log(self, job: Job) -> Path:
        """The file with the output of a run's processes."""
        return self.runs / self.suite.name / "logs" / f"{job.name}.log"


@dataclass
class Outcome:
    """The outcome of one pass through the queue.

    Attributes:
        done: number of rows that were added.
        failed: runs that ended in an error.
        elsewhere: runs that another process is doing.
        stopped: runs that a signal ended.
        left: number of runs that were not started.
        ended_by: the signal that ended the pass early; None if there was none.
    """

    done: int = 0
    failed: list[Job] = field(default_factory=list)
    elsewhere: list[Job] = field(default_factory=list)
    stopped: list[Job] = field(default_factory=list)
    left: int = 0
    ended_by: signal.Signals | None = None


def has_rows_of_all(place: Place) -> bool:
    """Whether every run has a row with the same overrides; fast, because unlike `pending` it composes nothing.

    It does not detect that a preset or a dataset of that name has changed since; `pending` does.
    """
    commands = {_without_study(record.words) for record in ResultsStore(place.store).records()}
    return all(_without_study(("python", "train.py", *job.typed)) in commands for job in place.suite.queue)


def _without_study(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word != "study=none")


def pending(place: Place) -> list[Job]:
    """The runs that are not in the store; every run's configuration is checked before any starts.

    A run is in the store if a row has its configuration and its data. Data of another recipe, after a change of a
    behaviour's weights, make another run.

    Raises:
        UserError: a run's configuration or data are invalid.
    """
    records = ResultsStore(place.store).records()
    checked: dict[tuple[Any, ...], Any] = {}
    datasets: dict[str, str | None] = {}
    names: dict[str, str] = {}
    waiting = []
    for job in place.suite.queue:
        key = (job.experiment, job.algorithm, job.overrides)
        if key not in checked:
            checked[key] = _checked(job, place.runs)
        cfg = checked[key]
        cfg.seed = job.seed
        plain = to_plain(cfg)
        of_data = json.dumps(plain["data"], sort_keys=True, default=str)  # it may follow the seed
        if of_data not in datasets:
            datasets[of_data] = _dataset_of(job, plain)
        dataset = datasets[of_data]
        hashed = config_hash(plain)
        if (other := names.setdefault(hashed, job.name)) != job.name:
            raise UserError(f"suite={job.suite}: {other} and {job.name} are the same configuration; remove one of them")
        if not is_stored(plain, dataset, records):
            waiting.append(job)
    return waiting


def _dataset_of(job: Job, plain: dict[str, Any]) -> str | None:
    try:
        return dataset_of(plain)
    except UserError as error:
        raise UserError(f"suite={job.suite}, {job.name}: {error}") from error


def _checked(job: Job, runs: Path) -> Any:
    """A run's configuration, once it has passed all checks."""
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.config.checks import check_action_kind

    try:
        cfg = compose(job, runs)
        plain = to_plain(cfg)
        check_action_kind(plain, checkpoints.build_env(plain).spec)
        check_played(plain, "a benchmark")
        return cfg
    except UserError as error:
        raise UserError(f"suite={job.suite}, {job.name}: {error}") from error


def work(place: Place, jobs: Sequence[Job], at_once: int, minutes: float | None, screen: Console) -> Outcome:
    """Performs jobs in `at_once` processes that share this machine's cores, and prints a line for each.

    It ends when all are done; after `minutes` (None: no limit) no further one is started.
    """
    outcome, queue = Outcome(), list(jobs)
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    started = time.monotonic()
    ends = float("inf") if minutes is None else started + 60 * minutes
    place.log(jobs[0]).parent.mkdir(parents=True, exist_ok=True)
    with _signals() as received:
        while running or (queue and received() is None and time.monotonic() < ends):
            while queue and len(running) < at_once and received() is None and time.monotonic() < ends:
                job = queue.pop(0)
                running[_start(place, job, at_once)] = (job, time.monotonic())
                screen.print(f"{_named(job)}: started, {place.log(job)}", highlight=False, soft_wrap=True)
            if received() is not None:
                _forward(running, received())
            for process in [process for process in running if process.poll() is not None]:
                job, since = running.pop(process)
                ended, seconds = _note(place, job, process.returncode, outcome), time.monotonic() - since
                left = len(queue) + len(running) + len(outcome.stopped)
                line = f"{_named(job)}: {ended}, {seconds:.0f} s; {left} to go"
                screen.print(line, highlight=False, soft_wrap=True)
            time.sleep(_LOOK_EVERY_SECONDS)
        outcome.ended_by = received()
    outcome.left = len(queue)
    return outcome


def _start(place: Place, job: Job, at_once: int) -> subprocess.Popen[bytes]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, available_cores() // at_once))
    with place.log(job).open("ab") as log:
        # A session of its own: Ctrl-C reaches this process only, which forwards it to the others once.
        return subprocess.Popen(
            command(place.which, job.name, place.store, place.runs, place.keep),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            start_new_session=True,
        )


def _forward(running: dict[subprocess.Popen[bytes], Any], number: signal.Signals | None) -> None:
    """Signals the runs to save and end, once each."""
    for process in running:
        if number is not None and not getattr(process, "signalled", False):
            process.send_signal(signal.SIGTERM)
            process.signalled = True  # type: ignore[attr-defined]


def _note(place: Place, job: Job, code: int, outcome: Outcome) -> str:
    """Counts how a run ended, and returns a line that reports it."""
    if code == 0:
        outcome.done += 1
        return _score(place, job)
    if code == BUSY:
        outcome.elsewhere.append(job)
        return "another process is running it, or has done it"
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        outcome.stopped.append(job)
        return "stopped, saved progress is kept"
    outcome.failed.append(job)
    return f"FAILED with exit code {code}: {last_line(place.log(job))} ({place.log(job)})"


def _named(job: Job) -> str:
    return f"{job.experiment}  {job.label}  seed {job.seed}"


def _score(place: Place, job: Job) -> str:
    """The score of a finished run, from its newest row."""
    wanted = (job.experiment, job.algorithm, job.variant, job.seed)
    found = [r for r in ResultsStore(place.store).records() if (r.experiment, r.algorithm, r.variant, r.seed) == wanted]
    if not found:
        return "done"
    score = found[-1].last_normalized_score
    return f"return {found[-1].last_return:.4g}" + ("" if score is None else f", normalised score {score:.1f}")


def last_line(log: Path) -> str:
    """The last line that a process printed; empty if it printed nothing."""
    lines = log.read_text(errors="replace", encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else ""


@contextmanager
def _signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Collects the first SIGINT or SIGTERM instead of ending the process."""
    found: list[signal.Signals] = []
    before = {
        number: signal.signal(number, lambda number, _: found.append(signal.Signals(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: found[0] if found else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
