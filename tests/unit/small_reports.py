"""Stores to report, and how to read a table of a report."""

from pathlib import Path

from dof_lightning import configuration
from dof_lightning.report.tables import Table
from dof_lightning.results_store import ResultsStore
from tests.unit.small_records import point, record

SPREAD = configuration.build(configuration.compose(["experiment=mpe_spread_random"]).env).spec.fingerprint


def fill(path: Path, methods: tuple[str, ...] = ("dof_policy", "td3_bc"), seeds: int = 3, **changes: object) -> Path:
    """A store of two datasets; later methods score less."""
    store = ResultsStore(path)
    for place, method in enumerate(methods):
        for number, quality in enumerate(("medium", "expert")):
            for seed in range(seeds):
                key, score = f"{method}{quality}{seed}", 50.0 + 40 * number - 10 * place + seed
                name = f"mpe_spread_{quality}"
                told = {
                    "algorithm": method,
                    "experiment": name,
                    "dataset": name,
                    "seed": seed,
                    "config_hash": key,
                    "dataset_fingerprint": quality,
                    "environment_fingerprint": SPREAD,
                    "last_normalized_score": score,
                    "best_normalized_score": score + 2,
                    "command": f"python train.py experiment={name} algorithm={method} seed={seed}",
                }
                curve = [
                    point(step, config_hash=key, dataset_fingerprint=quality, normalized_score=score + step / 50 - 4)
                    for step in (50, 100)
                ]
                store.append(record(**{**told, **changes}), curve)
    return path


def cell(table: Table, row: str, column: str) -> str:
    found = next(cells for cells in table.rows if cells[0] == row)
    return found[table.columns.index(column)]
