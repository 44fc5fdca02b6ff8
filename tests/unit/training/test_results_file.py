"""`results.json`, whole or damaged: other numbers than were written are never read."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dof_lightning.digest import KEY
from dof_lightning.errors import UserError
from dof_lightning.training.results_file import read_results, read_results_of_run, write_results

SCORE = {"return_mean": 10.0, "return_std": 1, "normalized_score": None, "win_rate": 0.5}
WHOLE = {
    "seed": 0,
    "steps": 5,
    "windows": 320,
    "dataset_fingerprint": "d0",
    "wall_seconds": 1.5,
    "peak_memory_mb": 800.0,
    "last": SCORE | {"episodes": 4, "certificate": {"passed": True}},
    "best": SCORE | {"episodes": 4},
    "behavior": SCORE,
}


def changed(key: str, value: Any) -> str:
    """`results.json` with another value at a dotted key, without it where the value is `...`."""
    results = json.loads(json.dumps(WHOLE))
    *above, last = key.split(".")
    node = results
    for part in above:
        node = node[part]
    node[last] = value
    if value is ...:
        del node[last]
    return json.dumps(results)


def test_whole_results_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(WHOLE))
    assert read_results_of_run(path) == WHOLE, "version 0.1.0 sealed nothing"
    write_results(path, WHOLE)
    assert read_results_of_run(path).items() > WHOLE.items()


def test_no_flipped_bit_or_cut_is_read_as_other_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, WHOLE)
    content, told = path.read_bytes(), read_results(path)
    flipped = [content[:n] + bytes([content[n] ^ 1 << n % 8]) + content[n + 1 :] for n in range(len(content))]
    for damaged in (*flipped, *(content[:n] for n in range(len(content) - 1))):
        path.write_bytes(damaged)
        with suppress(UserError):
            assert read_results(path) == told


@pytest.mark.parametrize("change", [{"steps": 6}, {"more": 1}, {KEY: None}, {KEY: ...}, {"format_version": ...}])
def test_a_changed_value_is_refused_and_a_seal_that_is_owed_is_missed(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "results.json"
    write_results(path, WHOLE)
    changed = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))
    for read in (read_results, read_results_of_run):
        with pytest.raises(UserError, match=r"results\.json is damaged: .*seal.*; delete it"):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"results"',
        "[" * 100_000,
        json.dumps(WHOLE)[:-40],
        *(changed(key, value) for key in ("seed", "steps", "windows") for value in (..., None, -1, 1.5, "3", True, [])),
        *(changed(key, value) for key in ("wall_seconds", "peak_memory_mb") for value in (..., -1, "3", math.nan)),
        *(
            changed(f"{part}.return_mean", value)
            for part in ("last", "best", "behavior")
            for value in ("1", {}, math.inf)
        ),
        *(changed(part, value) for part in ("last", "best", "behavior") for value in (..., None, [], 3)),
        *(changed("last.certificate", value) for value in (..., None, {}, {"passed": "yes"})),
        *(changed("last.win_rate", value) for value in (-0.1, 7, "all", math.nan)),
        changed("last.normalized_score", []),
        changed("last.execution", "alone"),
        changed("dataset_fingerprint", 7),
        changed("device", ["cpu"]),
    ],
)
def test_damaged_results_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"results.json is damaged"):
        read_results_of_run(path)


def test_results_in_another_encoding_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(changed("dataset_fingerprint", "x").replace('"x"', '"ö"').encode("latin-1"))
    with pytest.raises(UserError, match=r"results.json is damaged"):
        read_results_of_run(path)
