"""A small run that is killed again and again, and compared bit by bit with an uninterrupted one at its end.

`python -m benchmarks.kill_campaign [--ranks 1 2 4] [--kills 5] [--seed 0] [overrides ...]` prints a Markdown table;
exit code 1 if anything differed. Overrides are `train.py`'s and apply to all runs (streaming, another algorithm, ...).
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dof_lightning.files import to_markdown
from dof_lightning.training.results_file import read_results_of_run

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("state_dict", "optimizer_states", "global_step")
SMALL = (
    "experiment=mpe_spread_random",
    "debug=default",
    "trainer.accelerator=cpu",
    "denoiser.hidden=[64,64]",
    "algorithm.critic.hidden=[64,64]",
    "schedule.steps=5",
    "sampler.steps=2",
    "algorithm.target_sampler.steps=2",
    "algorithm.candidates=2",
    "checkpoint.every_n_steps=7",
    "rollout.every_n_steps=50",
    "validation.every_n_steps=50",
    "trainer.log_every_n_steps=10",
)
STEPS_BETWEEN_KILLS = 60
SECONDS_TO_END = 60.0  # within which a job must end after one of its ranks has died
SECONDS_A_RUN = 600.0


@dataclass
class Outcome:
    """The outcome on one number of ranks.

    Attributes:
        ranks: number of ranks.
        group_kills: how often all ranks were killed at once.
        single_kills: how often a single rank was killed, and the others had to end by themselves.
        slowest_end: seconds the slowest job took to end after a rank had died.
        resumed: step of the checkpoint behind each kill.
        compared: tensors and numbers compared.
        differences: names of those that differ.
        problems: descriptions of events that should not have happened.
    """

    ranks: int
    group_kills: int = 0
    single_kills: int = 0
    slowest_end: float = 0.0
    resumed: list[int] = field(default_factory=list)
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def campaign(ranks: int, kills: int, seed: int, folder: Path, overrides: Sequence[str]) -> Outcome:
    """Performs one uninterrupted run and one that is killed `kills` times, on the same number of ranks, in a folder.

    With several ranks, a single one and all at once are killed in turn; the seed determines the moments.
    """
    outcome = Outcome(ranks)
    steps = f"trainer.max_steps={STEPS_BETWEEN_KILLS * (kills + 1)}"
    typed = (*SMALL, steps, f"trainer.devices={ranks}", f"data.root={folder / 'data'}", *overrides)
    whole, killed = folder / f"ranks_{ranks}" / "whole", folder / f"ranks_{ranks}" / "killed"
    _finish((*typed, f"run_dir={whole}"), outcome)
    moments = random.Random(f"{seed} {ranks}")
    for number in range(kills):
        _start_and_kill((*typed, f"run_dir={killed}"), killed, moments, number % 2 == 0 and ranks > 1, outcome)
    _finish((*typed, f"run_dir={killed}"), outcome)
    if not outcome.problems:
        _compare(whole, killed, outcome)
    return outcome


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[tuple[str, bool]]:
    """Yields every tensor and number of two nested containers: its name, and whether it differs in any bit."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        yield where, not (ours.dtype == theirs.dtype and torch.equal(ours, theirs))
    elif isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key, value in ours.items():
            yield from differences(value, theirs[key], f"{where}.{key}" if where else str(key))
    elif isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{where}.{index}")
    else:
        yield where, ours != theirs


def _start(overrides: Sequence[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _finish(overrides: Sequence[str], outcome: Outcome) -> None:
    process = _start(overrides)
    try:
        _, complaint = process.communicate(timeout=SECONDS_A_RUN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, complaint = process.communicate()
    if process.returncode != 0:
        outcome.problems.append(f"a run ended with {process.returncode}: {complaint.strip()[-500:]}")


def _start_and_kill(
    overrides: Sequence[str], run_dir: Path, moments: random.Random, alone: bool, outcome: Outcome
) -> None:
    """Starts a job and kills it after one to three more checkpoints and up to half a second, so between two of them."""
    checkpoints, delay = moments.randint(1, 3), moments.uniform(0.0, 0.5)
    victim = moments.randrange(outcome.ranks)
    process = _start(overrides)
    if not _wait_for_checkpoints(process, run_dir, checkpoints):
        outcome.problems.append(f"ended before it was killed: {process.communicate()[1].strip()[-500:]}")
        return
    time.sleep(delay)
    if alone:
        os.kill(processes_of_ranks(process.pid)[victim], signal.SIGKILL)
        outcome.single_kills += 1
        _expect_end(process, outcome)
    else:
        outcome.group_kills += 1
    _kill_group(process)
    outcome.resumed.append(torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


def _wait_for_checkpoints(process: subprocess.Popen, run_dir: Path, count: int) -> bool:
    last = run_dir / "checkpoints" / "last.ckpt"
    seen = _written(last)
    deadline = time.monotonic() + SECONDS_A_RUN
    while count and process.poll() is None and time.monotonic() < deadline:
        if (now := _written(last)) != seen:
            seen, count = now, count - 1
        time.sleep(0.002)
    return count == 0


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _expect_end(process: subprocess.Popen, outcome: Outcome) -> None:
    died = time.monotonic()
    while _lives(process.pid) and time.monotonic() - died < SECONDS_TO_END:
        time.sleep(0.1)
    outcome.slowest_end = max(outcome.slowest_end, time.monotonic() - died)
    if _lives(process.pid):
        outcome.problems.append(f"a rank lived on {SECONDS_TO_END:.0f} s after another had died")
    elif process.poll() == 0:
        outcome.problems.append("a job that lost a rank ended with exit code 0")


def _lives(group: int) -> bool:
    """Whether a process of a group still runs; one that only waits to be reaped does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group, *_ = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


def _kill_group(process: subprocess.Popen) -> None:
    """Kills a process group; returns when all are gone, and with them the lock of the run's folder."""
    while _lives(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    process.communicate()


def processes_of_ranks(first: int) -> list[int]:
    """The processes of rank zero and of the ranks it has started, in their order."""
    children = Path(f"/proc/{first}/task").glob("*/children")
    started = sorted({int(pid) for path in children for pid in path.read_text(encoding="utf-8").split()})
    return [first, *(pid for pid in started if "train.py" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"))]


def _compare(whole: Path, killed: Path, outcome: Outcome) -> None:
    theirs, ours = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (whole, killed))
    for part in PARTS:
        for name, differs in differences(ours[part], theirs[part], part):
            outcome.compared += 1
            if differs:
                outcome.differences.append(name)
    results = [read_results_of_run(path / "results.json") for path in (killed, whole)]
    if not (results[0]["resumed_from_step"] or 0) > 0:
        outcome.problems.append(f"resumed_from_step is {results[0]['resumed_from_step']}")
    for name in ("last", "best"):
        outcome.compared += 1
        if results[0][name] != results[1][name]:
            outcome.differences.append(f"results.{name}")


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    columns = ("ranks", "killed: all", "killed: one", "then over within", "went on from", "compared", "differ")
    rows = []
    for o in outcomes:
        ended = f"{o.slowest_end:.1f} s" if o.single_kills else "-"
        resumed = ", ".join(map(str, o.resumed))
        rows.append((o.ranks, o.group_kills, o.single_kills, ended, resumed, o.compared, len(o.differences)))
    return to_markdown(columns, rows)


def main() -> int:
    """Runs the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of ranks")
    parser.add_argument("--kills", type=int, default=5, help="kills a run suffers")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where runs and data go; default: a temporary folder")
    parser.add_argument("overrides", nargs="*", help="train.py's, for all runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        outcomes = [campaign(r, options.kills, options.seed, folder, options.overrides) for r in options.ranks]
    sys.stdout.write(table(outcomes))
    for outcome in outcomes:
        for line in (*outcome.problems, *outcome.differences[:5]):
            sys.stdout.write(f"{outcome.ranks} ranks: {line}\n")
    return int(any(outcome.problems or outcome.differences for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
