"""The curves in a run's TensorBoard files, read exactly as they were written or not at all."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from dof_lightning.errors import UserError

HEADLINE = "rollout/return_mean"
_FRAME = 16  # bytes around a record: its length, and a checksum of that and of itself


@dataclass(frozen=True)
class Scalar:
    """A point of a curve: `wall_time` in seconds since 1970, `step` in optimiser steps."""

    wall_time: float
    step: int
    value: float


@dataclass(frozen=True)
class Events:
    """The content of one file.

    Attributes:
        began: start of the file, in seconds since 1970.
        scalars: by tag, in the order in which they were written.
    """

    began: float
    scalars: Mapping[str, Sequence[Scalar]]

    @property
    def trained(self) -> bool:
        """Whether the file is from a process that trained."""
        return "loss" in self.scalars or HEADLINE in self.scalars

    @cached_property
    def seconds(self) -> float:
        """Seconds from its beginning to its last scalar."""
        return max(point.wall_time for points in self.scalars.values() for point in points) - self.began


def read_events(run: Path) -> list[Events]:
    """Reads all files of a run's folder, in the order in which they began.

    Raises:
        UserError: one of them is damaged.
    """
    files = sorted(run.glob("events.out.tfevents.*"), key=lambda file: file.name.split(".")[3])
    return [_read(file) for file in files]


def training_seconds(files: Sequence[Events], results: Mapping[str, Any]) -> float:
    """Seconds that all processes of a run trained; `results.json` has those of the last one.

    A process may write several files of events. The last one began at `started_at`, in seconds since 1970; if an older
    run does not record it, it alone counts.

    Args:
        files: the run's events.
        results: its `results.json`.
    """
    started_at = results.get("started_at", 0.0)
    earlier = sum(one.seconds for one in files if one.trained and one.began < started_at)
    return round(results["wall_seconds"] + earlier, 2)


def _read(path: Path) -> Events:
    scalars: dict[str, list[Scalar]] = {}
    began = None
    for event in _events(path):
        began = event.wall_time if began is None else began
        for value in event.summary.value:
            if value.HasField("simple_value"):
                point = Scalar(event.wall_time, event.step, value.simple_value)
                scalars.setdefault(value.tag, []).append(point)
    return Events(began or 0.0, scalars)


def _events(path: Path) -> Iterator[Event]:
    """Yields all records; TensorBoard itself silently treats the first damaged record as the end."""
    size = 0
    for record in RawEventFileLoader(str(path)).Load():
        size += len(record) + _FRAME
        yield Event.FromString(record)
    with path.open("rb") as file:
        file.seek(size)
        rest = file.read()
    if rest and not _is_cut(rest):
        raise UserError(
            f"{path} is damaged at byte {size:,}: the rest of the curve cannot be read; restore it, or move it out "
            f"of the run's folder to report the run without it"
        )


def _is_cut(rest: bytes) -> bool:
    """Whether bytes are the beginning of one record that a killed process did not finish."""
    if len(rest) < 12:
        return True
    length, checksum = struct.unpack("<QI", rest[:12])
    return bool(masked_crc32c(rest[:8]) == checksum) and len(rest) < length + _FRAME
