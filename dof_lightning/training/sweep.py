"""A sweep (`python train.py -m`): every line of output names its job, and a table comes last."""

import io
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from dof_lightning.console import make_console, number, show_table
from dof_lightning.files import write_atomically
from dof_lightning.spec import SCORE_TITLES
from dof_lightning.training.results_file import read_results
from dof_lightning.training.run_folder import RUNS, RunFolder

NOTES_VARIABLE = "DOF_SWEEP"  # folder of the jobs' notes, wherever a launcher runs them
_SCORES = ("own_normalized_score", "normalized_score", "return_mean")
_SUBMITTED = (
    "submitit: this command waits for its jobs, their output is in runs/.hydra/.submitit/ (SLURM: squeue --me "
    "shows which of them wait); the same command resumes unfinished jobs after an interruption"
)


@contextmanager
def ending_in_a_table(typed: Sequence[str]) -> Iterator[None]:
    """Wraps a command; if it was a sweep, shows what its jobs did, however it ends."""
    notes = (RUNS / ".hydra" / f"jobs_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}").resolve()
    os.environ[NOTES_VARIABLE] = str(notes)
    if any(text.startswith("hydra/launcher=submitit") for text in typed):
        sys.stdout.write(f"{_SUBMITTED}\n")
    try:
        yield
    finally:
        jobs = [json.loads(path.read_text(encoding="utf-8")) for path in notes.glob("*.json")]
        if jobs:
            _show(make_console(), sorted(jobs, key=lambda job: int(job["number"])))
        shutil.rmtree(notes, ignore_errors=True)


@contextmanager
def labelled(job: int) -> Iterator[None]:
    """Puts a job's number before every line that it prints: joblib's jobs print into one terminal."""
    with redirect_stdout(_Labelled(sys.stdout, job)) as out, redirect_stderr(_Labelled(sys.stderr, job)) as errors:
        try:
            yield
        finally:
            out.finish()
            errors.finish()


class _Labelled(io.TextIOBase):
    """Passes on whole lines of a job, each with its number before it."""

    def __init__(self, stream: TextIO, job: int) -> None:
        self._stream, self._label, self._rest = stream, f"[{job}] ", ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._stream.write("".join(f"{self._label}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def finish(self) -> None:
        """Passes on a last line that has no newline."""
        if self._rest:
            self.write("\n")
        self.flush()


def note(job: int, typed: Sequence[str], folder: Path | None) -> None:
    """Notes a job's overrides and, once it has ended, its run folder; does nothing outside a sweep."""
    if notes := os.environ.get(NOTES_VARIABLE):
        entry = {"number": job, "typed": list(typed), "folder": None if folder is None else str(folder)}
        Path(notes).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(notes) / f"{job}.json", json.dumps(entry))


def score_of(folder: Path) -> float | None:
    """The value a sweeper compares: the score of the last checkpoint on the report episodes; higher is better.

    If nothing was played it is the first held-out loss, for which lower is better; None for a study.
    """
    results = _results(folder)
    last, heldout = results.get("last", {}), results.get("heldout", {})
    scores = [last[name] for name in _SCORES if last.get(name) is not None]
    return next((float(value) for value in (*scores, *heldout.values())), None)


def _results(folder: Path | None) -> Mapping[str, Any]:
    path = None if folder is None else RunFolder(folder).results
    return read_results(path) if path is not None and path.exists() else {}


def _show(screen: Console, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Shows one row per job: the keys in which jobs differ, its score, and its folder."""
    typed = [dict(text.partition("=")[::2] for text in job["typed"]) for job in jobs]
    keys = [
        key for key in dict.fromkeys(key for one in typed for key in one) if len({one.get(key) for one in typed}) > 1
    ]
    folders = [None if job["folder"] is None else Path(job["folder"]) for job in jobs]
    last = [_results(folder).get("last", {}) for folder in folders]
    names = [name for name in _SCORES if any(one.get(name) is not None for one in last)]
    heldout = list(dict.fromkeys(name for folder in folders for name in list(_results(folder).get("heldout", {}))[:1]))
    columns = ["job", *keys, *(SCORE_TITLES.get(name, "return") for name in names), *heldout, "run folder"]
    rows = [
        [
            str(job["number"]),
            *(one.get(key, "-") for key in keys),
            *(number(score.get(name)) for name in names),
            *(_loss(folder, name) for name in heldout),
            "not finished" if folder is None else os.path.relpath(folder),
        ]
        for job, one, score, folder in zip(jobs, typed, last, folders, strict=True)
    ]
    show_table(screen, columns, rows)
    done = [os.path.relpath(folder) for folder in folders if folder is not None]
    if names:
        screen.print("of the last checkpoints on the report episodes; if you choose by them, report on other seeds")
        screen.print(f"one report of all: dof report {shlex.join(done)}", highlight=False, markup=False, soft_wrap=True)


def _loss(folder: Path | None, name: str) -> str:
    loss = _results(folder).get("heldout", {}).get(name)
    return "-" if loss is None else f"{loss:.4g}"
