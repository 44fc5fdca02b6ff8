"""Time from the README's command to the expert's score; trains, so it runs only when it is named."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.table import Row

SCORE, LIMIT_SECONDS = 100.0, 120.0
EVERY_N_STEPS = 250
TAG = "rollout/normalized_score"


def time_to_score() -> list[Row]:
    """Seconds until a periodic rollout of the preset first scores 100, dataset and imports included."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        command = [sys.executable, "train.py", "experiment=mpe_spread_expert", f"run_dir={folder}/run"]
        command.append(f"rollout.every_n_steps={EVERY_N_STEPS}")
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
        reached = first_time_at(Path(folder), SCORE)
    what = f"experiment=mpe_spread_expert to a score of {SCORE:g}"
    against = f"{LIMIT_SECONDS:g} s"
    if reached is None:
        return [Row("time_to_score", what, against, None, "<= 1", "never reached")]
    share = (reached - started) / LIMIT_SECONDS
    return [Row("time_to_score", what, against, share, "<= 1", f"seed 0, a rollout every {EVERY_N_STEPS} steps")]


def first_time_at(folder: Path, score: float) -> float | None:
    """Wall time of the first rollout with at least this score in the curves below a folder."""
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        if TAG in events.Tags()["scalars"]:
            times = [e.wall_time for e in events.Scalars(TAG) if e.value >= score]
            return min(times, default=None)
    return None
