"""The results store: CSV files with one row per finished run, and its learning curve.

<store>/
    results.csv    a row per run, see `Record`
    curves.csv     a row per periodic rollout of a run, see `Point`

The last column, `digest`, covers the row's other cells; it is empty or missing in rows of earlier versions.
"""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dof_lightning.errors import UserError
from dof_lightning.files import locked, write_atomically
from dof_lightning.report.csv_rows import append, lines, read, to_csv


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        suite: the benchmark it belongs to; empty for a single run.
        experiment, dataset, environment, algorithm: options of the groups.
        variant: the suite's name for the change to the algorithm's preset; empty for the preset itself.
        seed: the run's seed.
        config_hash: hash of the resolved configuration (`identity.config_hash`).
        settings_hash: hash of the configuration without its seeds (`identity.settings_hash`).
        dataset_fingerprint, environment_fingerprint: fingerprints of the recipes; the latter covers task variant and
            opponent.
        git_revision: revision of the source tree, with `+changes` if files differed; empty outside a clone.
        steps: number of optimiser steps done.
        budget_steps: `trainer.max_steps`; more than `steps` if time or a plateau ended the run.
        windows: number of windows seen in training.
        episodes: number of episodes of the final evaluation.
        last_return, last_return_std: episode return of the last checkpoint on the report seeds, over its episodes.
        last_normalized_score, last_own_normalized_score, last_win_rate: None if there is none.
        best_...: of the checkpoint that was best on the selection seeds, on the same report seeds.
        behavior_return, behavior_normalized_score, behavior_own_normalized_score, behavior_win_rate: the same for the
            data.
        execution: `decentralized` or `centralized`.
        shared_seeds: M if the agents received a common seed; else None.
        certified: whether the decentralisation certificate passed.
        wall_seconds: seconds of all processes of the run together, evaluation included.
        peak_memory_mb: memory of the largest of these processes.
        decision_ms: milliseconds of one decision of all agents of one episode; None if it was not measured.
        device: the device it ran on, and the number of threads.
        command: the command that reproduces the run.
    """

    suite: str
    experiment: str
    dataset: str
    environment: str
    algorithm: str
    variant: str
    seed: int
    config_hash: str
    settings_hash: str
    dataset_fingerprint: str
    environment_fingerprint: str
    git_revision: str
    steps: int
    budget_steps: int
    windows: int
    episodes: int
    last_return: float
    last_return_std: float
    last_normalized_score: float | None
    last_own_normalized_score: float | None
    last_win_rate: float | None
    best_return: float
    best_return_std: float
    best_normalized_score: float | None
    best_own_normalized_score: float | None
    best_win_rate: float | None
    behavior_return: float
    behavior_normalized_score: float | None
    behavior_own_normalized_score: float | None
    behavior_win_rate: float | None
    execution: str
    shared_seeds: int | None
    certified: bool
    wall_seconds: float
    peak_memory_mb: float
    decision_ms: float | None
    device: str
    command: str

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the command; one with an unclosed quote, of an earlier version, is cut at blanks."""
        try:
            return tuple(shlex.split(self.command))
        except ValueError:
            return tuple(self.command.split())

    @property
    def ends_at_plateau(self) -> bool:
        """Whether the run ends once its score no longer rises (`rollout.until_plateau`)."""
        return self._until_plateau is not None

    @property
    def stopped_early(self) -> bool:
        """Whether time ended the run before its updates were done, as far as the steps tell.

        From `rollout.until_plateau` on, a run may have been ended by either.
        """
        return self.steps < min(self.budget_steps, self._until_plateau or self.budget_steps)

    @property
    def _until_plateau(self) -> int | None:
        typed = re.findall(r"\brollout\.until_plateau=(\S+)", self.command)
        updates = typed[-1].replace("_", "") if typed else ""  # Hydra reads 12_000 as 12000
        return int(updates) if updates.isdecimal() else None


@dataclass(frozen=True)
class Point:
    """One periodic rollout of a run, on the selection seeds.

    Attributes:
        config_hash, dataset_fingerprint: of the run's record.
        step: number of optimiser steps done.
        seconds: training time until then, rollouts included, over all processes of a resumed run.
        return_mean: episode return.
        normalized_score, own_normalized_score, win_rate: None if there is none.
    """

    config_hash: str
    dataset_fingerprint: str
    step: int
    seconds: float
    return_mean: float
    normalized_score: float | None
    own_normalized_score: float | None
    win_rate: float | None


class ResultsStore:
    """Rows on disk, appended by several processes one at a time.

    Args:
        folder: the folder of the two files, `results` and `curves`; made on the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results, self.curves = folder / "results.csv", folder / "curves.csv"

    def records(self) -> list[Record]:
        """Reads all runs, in the order in which they ended; returns none if there is no store yet.

        Raises:
            UserError: a row cannot be read.
        """
        return read(self.results, Record)

    def points(self) -> list[Point]:
        """Reads all curves; errors as in `records`."""
        return read(self.curves, Point)

    def append(self, record: Record, curve: Sequence[Point]) -> bool:
        """Adds a run, its curve first: a run that is in `results.csv` is complete.

        Returns:
            False if the store already contains this run (configuration and data) and nothing is added.

        Raises:
            UserError: a number is NaN or infinite, or the existing rows cannot be read; nothing is added.
        """
        rows: list[Record | Point] = [record, *curve]
        for row in rows:
            _require_finite(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            if any(identity(other) == identity(record) for other in self.records()):
                return False
            self.points()  # refuses rows that cannot be read
            points = [line for _, line in lines(self.curves, Point)]
            kept = [line for line in points if (line["config_hash"], line["dataset_fingerprint"]) != identity(record)]
            if len(kept) < len(points):  # a curve without its row, left by a killed process or a deleted row
                # Lines stay as they are, digests included: the original values in rows of earlier versions are unknown.
                write_atomically(self.curves, to_csv(Point, kept, header=True, sign=False), sync=True)
            append(self.curves, Point, curve)
            append(self.results, Record, [record])
        return True

    def half_lines(self) -> list[Path]:
        """The files whose last line is incomplete, after a kill or a cut; that line is not a row."""
        files = [path for path in (self.results, self.curves) if path.exists()]
        return [path for path in files if path.read_bytes()[-1:] not in (b"", b"\n")]


def identity(row: Record | Point) -> tuple[str, str]:
    """The key by which two runs are the same: configuration (seed included) and data."""
    return row.config_hash, row.dataset_fingerprint


def _require_finite(row: Record | Point) -> None:
    for name, value in asdict(row).items():
        if isinstance(value, float) and not math.isfinite(value):
            run = (
                f"step {row.step}" if isinstance(row, Point) else f"{row.experiment}, {row.algorithm}, seed {row.seed}"
            )
            raise UserError(f"{run}: {name} is {value}, which has no mean; such a run is not stored")
