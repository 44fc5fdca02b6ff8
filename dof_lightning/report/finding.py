"""Search for runs in results stores and run folders, which are named or below a named folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dof_lightning.errors import UserError
from dof_lightning.report.store import Point, Record, ResultsStore, identity

Run = tuple[Record, list[Point]]


def runs_in(path: Path, left_out: Callable[[str], Any]) -> Iterator[Run]:
    """Yields the runs of a store, of a run's folder, or of all stores and run folders below a folder.

    Args:
        path: a store, a run's folder, or a folder above them.
        left_out: called with a line for each run below a folder that cannot be reported, and for each half line.

    Raises:
        UserError: the path is none of them, or the store or run that it names cannot be reported.
    """
    if _is_store(path):
        yield from _of_store(path, left_out)
    elif _is_run(path):
        yield _of_folder(path)
    else:
        yield from _below(path, left_out)


def _below(path: Path, left_out: Callable[[str], Any]) -> Iterator[Run]:
    found = list(_search(path))
    if not found and (path / "config.yaml").exists():
        yield _of_folder(path)  # its error names the missing file
    elif not found:
        raise UserError(
            f"{path} is neither a results store (results.csv) nor a run folder (config.yaml), and none lies below it"
        )
    for place in found:
        try:
            yield from list(_of_store(place, left_out)) if _is_store(place) else [_of_folder(place)]
        except UserError as error:
            left_out(str(error))


def _search(path: Path) -> Iterator[Path]:
    """Yields stores and run folders in the order of their names; names that begin with a dot are skipped."""
    for folder, below, _ in os.walk(path):
        here = Path(folder)
        if _is_store(here) or _is_run(here):
            below.clear()
            yield here
        below[:] = sorted(name for name in below if not name.startswith("."))


def _is_store(path: Path) -> bool:
    return (path / "results.csv").exists()


def _is_run(path: Path) -> bool:
    """Whether a folder is a run's; a study's folder has a configuration, too, but no checkpoints of its own."""
    return (path / "config.yaml").exists() and (path / "checkpoints").is_dir()


def _of_store(path: Path, left_out: Callable[[str], Any]) -> Iterator[Run]:
    store = ResultsStore(path)
    points: dict[tuple[str, str], list[Point]] = {}
    for point in store.points():
        points.setdefault(identity(point), []).append(point)
    for file in store.half_lines():
        left_out(f"the last line of {file}, which is incomplete")
    yield from ((record, points.get(identity(record), [])) for record in store.records())


def _of_folder(path: Path) -> Run:
    from dof_lightning.report.record import record_of  # reads a checkpoint, with torch

    return record_of(path)
