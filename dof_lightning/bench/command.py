"""`dof bench`: its arguments and its output."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dof_lightning.bench.queue import Outcome, Place, has_rows_of_all, pending, work
from dof_lightning.bench.suite import Job, read_suite
from dof_lightning.config.command_line import config_dirs, for_hydra, take, take_integer, take_positive, take_truth
from dof_lightning.console import make_console, show_table
from dof_lightning.errors import UserError
from dof_lightning.threads import CORES_UNKNOWN

STORES, RUNS = Path("benchmarks") / "results", Path("runs") / "bench"
_KNOWN = ("suite", "store", "runs", "jobs", "minutes", "keep", "launcher", "list")


def bench(tails: list[str]) -> None:
    """Performs the runs of a suite that are not in its store yet.

    Raises:
        UserError: an argument or a run is invalid; nothing has been started.
        SystemExit: a run failed, or a signal ended the queue.
    """
    launcher_settings = [tail for tail in tails if tail.startswith("hydra.launcher.")]
    tails = [tail for tail in tails if tail not in launcher_settings]
    which, tails = take(tails, "suite")
    if which is None:
        raise UserError("suite= is missing; name an option of conf/suite or the path of a .yaml file")
    store, tails = take(tails, "store")
    runs, tails = take(tails, "runs")
    typed_jobs = any(tail.startswith("jobs=") for tail in tails)
    at_once, tails = take_integer(tails, "jobs", default=1, least=1)
    minutes, tails = take_positive(tails, "minutes")
    keep, tails = take_truth(tails, "keep", default=True)
    only_list, tails = take_truth(tails, "list", default=False)
    launcher, tails = take(tails, "launcher")
    _check_launcher(launcher, launcher_settings, minutes, typed_jobs)
    if tails:
        raise UserError(f"unknown key `{tails[0].partition('=')[0]}`; dof bench takes {', '.join(_KNOWN)}")
    suite = read_suite(which)
    place = Place(which, suite, Path(store or STORES / suite.name), Path(runs or RUNS), keep)
    screen = make_console()
    if has_rows_of_all(place):
        _say_done(place, screen)
    waiting = pending(place)
    screen.print(f"{suite.title}: {len(suite.queue)} runs, {len(suite.queue) - len(waiting)} in {place.store}")
    if only_list:
        rows = [[r.experiment, r.label, str(r.seed), "to do" if r in waiting else "done"] for r in suite.queue]
        show_table(screen, ["experiment", "algorithm", "seed", "state"], rows)
    elif waiting and launcher is not None:
        _launch(place, waiting, launcher, launcher_settings, at_once, screen)
    elif waiting:
        _end(work(place, waiting, at_once, minutes, screen), place, screen)


def _say_done(place: Place, screen: Console) -> None:
    """Reports a finished suite before every configuration is composed again, which takes most of a minute."""
    done = f"{place.suite.title}: all {len(place.suite.queue)} runs are done, their rows are in {place.store}"
    for line in (
        f"{done} (dof report {place.store})",
        f"to run it yourself: dof bench suite={place.which} store=results/{place.suite.name}",
        "for your own suite, change a copy of one of conf/suite/: dof bench suite=mine.yaml store=results/mine",
        "checking whether presets and data are unchanged; Ctrl-C skips the check",
    ):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _check_launcher(launcher: str | None, settings: Sequence[str], minutes: float | None, typed_jobs: bool) -> None:
    """Refuses arguments that a launcher would ignore; `typed_jobs` is true if `jobs=` was typed.

    Raises:
        UserError: an argument would be ignored; the message names its key.
    """
    if launcher is None and settings:
        raise UserError(f"{settings[0]} is for one of Hydra's launchers; set launcher=, too")
    if launcher is not None and config_dirs(sys.argv[1:]):
        raise UserError("--config-dir does not reach a launcher's jobs; make the folder a plug-in, or remove launcher=")
    if launcher is not None and minutes is not None:
        raise UserError("minutes= is for this machine's queue, but a launcher starts all runs; remove one of the two")
    keys = {text.partition("=")[0].removeprefix("hydra.launcher.") for text in settings}
    if launcher is not None and typed_jobs and (launcher != "joblib" or "n_jobs" in keys):
        ignored_by = "hydra.launcher.n_jobs=" if launcher == "joblib" else f"launcher={launcher}"
        raise UserError(
            f"jobs= is for this machine's queue and for joblib, and has no effect with {ignored_by}; remove jobs="
        )
    if launcher is not None and launcher.startswith("submitit") and "cpus_per_task" not in keys:
        raise UserError(CORES_UNKNOWN)


def _launch(
    place: Place, jobs: Sequence[Job], launcher: str, settings: list[str], at_once: int, screen: Console
) -> None:
    """Passes all runs to one of Hydra's launchers and waits until their results are in the store."""
    told: dict[str, str | Path] = {"suite": place.which, "store": place.store, "runs": place.runs}
    command = [sys.executable, "-m", "dof_lightning.bench.launch", "-m", f"hydra/launcher={launcher}", *settings]
    told_n_jobs = any(text.startswith("hydra.launcher.n_jobs=") for text in settings)
    command += [f"hydra.launcher.n_jobs={at_once}"] if launcher == "joblib" and not told_n_jobs else []
    notes = place.runs / place.suite.name / ".hydra"
    command += [
        for_hydra("hydra.sweep.dir", notes),
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    command += [f"+{for_hydra(key, value)}" for key, value in told.items()]
    command.append(f"+keep={str(place.keep).lower()}")
    command.append(f"+job={','.join(job.name for job in jobs)}")
    code = subprocess.run(command, check=False).returncode
    left = pending(place)
    screen.print(f"{len(jobs) - len(left)} of {len(jobs)} runs done by launcher={launcher}", highlight=False)
    if left or code:
        raise UserError(f"{len(left)} runs are not in {place.store}; the same command runs them again")


def _end(outcome: Outcome, place: Place, screen: Console) -> None:
    """Reports the outcome, and exits with a code that scripts can read."""
    screen.print(f"runs added to {place.store}: {outcome.done}", highlight=False, soft_wrap=True)
    if outcome.elsewhere:
        screen.print(f"runs in another process: {len(outcome.elsewhere)}", highlight=False)
    if outcome.stopped:
        screen.print(f"stopped runs: {len(outcome.stopped)}; the same command resumes them", highlight=False)
    if outcome.ended_by is not None:
        sys.stderr.write(f"{outcome.ended_by.name}: saved progress is kept; the same command resumes\n")
        sys.exit(128 + outcome.ended_by)
    if outcome.left:
        screen.print(f"runs not started within minutes=: {outcome.left}; the same command resumes", highlight=False)
    if outcome.failed:
        raise UserError(
            f"{len(outcome.failed)} runs failed, the first is {outcome.failed[0].name}; its log is "
            f"{place.log(outcome.failed[0])}"
        )
