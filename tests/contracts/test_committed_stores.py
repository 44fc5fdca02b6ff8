"""Every committed row of `benchmarks/results` is found by the command that it contains."""

import csv
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import config_hash, settings_hash
from dof_lightning.report.store import ResultsStore

STORES = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
TUNING = [path.name for path in sorted(STORES.iterdir()) if path.name.startswith("tuning_")]
RECORD = [path.name for path in sorted(STORES.iterdir()) if path.name not in (*TUNING, "smoke")]


@pytest.mark.parametrize("name", [*RECORD, *(pytest.param(name, marks=pytest.mark.slow) for name in TUNING)])
def test_every_row_is_the_run_that_its_command_configures(name: str) -> None:
    records = ResultsStore(STORES / name).records()
    assert records
    by_command: dict[tuple[str, ...], list[int]] = {}
    for number, record in enumerate(records):
        by_command.setdefault(_without_seed(record.command), []).append(number)
    for typed, numbers in by_command.items():
        cfg = configuration.compose(list(typed))
        for record in (records[number] for number in numbers):
            cfg.seed = record.seed
            plain = configuration.to_plain(cfg)
            assert (config_hash(plain), settings_hash(plain)) == (record.config_hash, record.settings_hash), record


@pytest.mark.parametrize("name", [*RECORD, *TUNING])
def test_every_curve_belongs_to_a_row(name: str) -> None:
    rows, points = (list(_lines(STORES / name / file)) for file in ("results.csv", "curves.csv"))
    assert {point["config_hash"] for point in points} <= {row["config_hash"] for row in rows}


def _without_seed(command: str) -> tuple[str, ...]:
    return tuple(text for text in shlex.split(command)[2:] if not text.startswith("seed="))


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)
