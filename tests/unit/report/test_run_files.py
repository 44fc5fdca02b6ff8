"""What a report reads of a run's folder, whole or damaged: TensorBoard's files and `results.json`."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from dof_lightning.errors import UserError
from dof_lightning.report.events import HEADLINE, read_events
from dof_lightning.report.results_file import read_scores
from dof_lightning.training.run_folder import RunFolder


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    """A file of events with a point at each of the steps 0 to 4."""
    writer = EventFileWriter(str(tmp_path))
    for step in range(5):
        told = Summary(value=[Summary.Value(tag=HEADLINE, simple_value=step + 0.1)])
        writer.add_event(Event(wall_time=1000.0 + step, step=step, summary=told))
    writer.close()
    return next(tmp_path.glob("events.*"))


def test_scalars_are_those_that_tensorboard_reads(curve: Path) -> None:
    (told,) = read_events(curve.parent)
    theirs = EventAccumulator(str(curve)).Reload()
    points = [(point.wall_time, point.step, point.value) for point in told.scalars[HEADLINE]]
    assert points == [(event.wall_time, event.step, event.value) for event in theirs.Scalars(HEADLINE)]
    assert len(points) == 5
    assert told.began == theirs.FirstEventTimestamp()
    assert told.trained


def test_a_damaged_file_of_events_is_refused_and_one_that_was_cut_is_read_so_far(curve: Path) -> None:
    whole = curve.read_bytes()
    for place in range(len(whole)):
        curve.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=f"{curve.name} is damaged at byte"):
            read_events(curve.parent)
        curve.write_bytes(whole[:place])
        (told,) = read_events(curve.parent)
        assert [point.step for point in told.scalars.get(HEADLINE, [])] == list(
            range(len(told.scalars.get(HEADLINE, [])))
        )


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
    assert read_scores(RunFolder(tmp_path)) == WHOLE


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
        read_scores(RunFolder(tmp_path))


def test_results_in_another_encoding_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(changed("dataset_fingerprint", "x").replace('"x"', '"ö"').encode("latin-1"))
    with pytest.raises(UserError, match=r"results.json is damaged"):
        read_scores(RunFolder(tmp_path))
