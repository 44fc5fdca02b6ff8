"""A report's reading of TensorBoard's files, whole or damaged."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from dof_lightning.errors import UserError
from dof_lightning.training.events import HEADLINE, read_events


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
    whole, counts = curve.read_bytes(), []
    for place in range(len(whole)):
        curve.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=f"{curve.name} is damaged at byte"):
            read_events(curve.parent)
        curve.write_bytes(whole[:place])
        (told,) = read_events(curve.parent)
        steps = [point.step for point in told.scalars.get(HEADLINE, [])]
        counts.append(len(steps))
        assert steps == list(range(len(steps)))
    assert counts == sorted(counts)
    assert set(counts) == set(range(5)), "the last of five is whole only in the whole file"
