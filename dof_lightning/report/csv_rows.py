"""Rows of a dataclass as lines of a CSV file, each with a digest of its cells."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from dof_lightning.errors import UserError
from dof_lightning.files import write_atomically

RowT = TypeVar("RowT")
_DIGEST = "digest"


def read(path: Path, kind: type[RowT]) -> list[RowT]:
    """Reads all rows of a file; returns none if there is no file yet.

    Raises:
        UserError: a row cannot be read, or its digest belongs to other values.
    """
    types = get_type_hints(kind)
    return [_row(path, number, line, kind, types) for number, line in lines(path, kind)]


def lines(path: Path, kind: type[Any]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yields line numbers and cells of the complete rows; none if there is no file yet."""
    if not path.exists():
        return
    try:
        text = _whole_lines(path.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 (byte {error.start}); restore it, or save it in UTF-8") from error
    whole = io.StringIO(text, newline="")
    reader = csv.DictReader(whole, strict=True)
    names = list(get_type_hints(kind))
    try:
        found = list(reader.fieldnames or names)
        if found not in (names, [*names, _DIGEST]):
            unlike = sorted(set(found) ^ {*names, _DIGEST}) or ["their order"]
            raise UserError(f"{path} is not a results store of this version: its columns differ in {', '.join(unlike)}")
        for line in reader:
            yield reader.line_num, line
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} cannot be read ({error}); fix or delete the line") from error


def append(path: Path, kind: type[RowT], rows: Iterable[RowT]) -> None:
    """Adds whole lines and waits until they are on the disk; drops a half line left by a killed process."""
    _add_digests(path, kind)
    with path.open("a+b") as file:
        file.seek(0)
        whole = len(_whole_lines(file.read()))
        file.truncate(whole)
        file.write(to_csv(kind, map(_cells, rows), header=whole == 0).encode())
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(content: bytes) -> bytes:
    """A file without the half line that a killed process left, which may end within a character."""
    return content[: content.rfind(b"\n") + 1]


def to_csv(kind: type[Any], rows: Iterable[Mapping[str, str | None]], header: bool, sign: bool = True) -> str:
    """Formats cells as lines, with a header if requested; `sign` adds each line's digest."""
    text = io.StringIO(newline="")
    names = list(get_type_hints(kind))
    writer = csv.DictWriter(text, [*names, _DIGEST], restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({**row, _DIGEST: _digest(row, names)} if sign else row for row in rows)
    return text.getvalue()


def _add_digests(path: Path, kind: type[Any]) -> None:
    """Adds the digest column to a file of an earlier version, empty because the rows' original values are unknown."""
    if path.exists() and not path.read_bytes().partition(b"\n")[0].endswith(f",{_DIGEST}".encode()):
        rows = [line for _, line in lines(path, kind)]
        write_atomically(path, to_csv(kind, rows, header=True, sign=False), sync=True)


def _cells(row: Any) -> dict[str, str | None]:
    return {name: "" if value is None else str(value) for name, value in asdict(row).items()}


def _digest(cells: Mapping[str, str | None], names: Iterable[str]) -> str:
    """The digest of a row's cells as they stand in the file, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps([cells[name] for name in names]).encode()).hexdigest()[:16]


def _row(path: Path, number: int, line: Mapping[str, str | None], kind: type[RowT], types: Mapping[str, Any]) -> RowT:
    try:
        if None in line:
            raise ValueError("it has more values than there are columns")
        if None in line.values():
            raise ValueError("its last values are missing")
        row = kind(**{name: _from_text(name, str(line[name]), wanted) for name, wanted in types.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}, line {number} cannot be read ({error}); fix or delete the line") from error
    if (digest := line.get(_DIGEST)) and digest != _digest(line, types):
        raise UserError(
            f"{path}, line {number} was changed after it was written (its digest differs); delete the line, or "
            f"empty its last cell if it was changed on purpose"
        )
    return row


def _from_text(name: str, text: str, wanted: Any) -> Any:
    if wanted is str:
        return text
    if text == "":
        if wanted in (int, float, bool):
            raise ValueError(f"{name} is missing")
        return None
    if wanted is bool:
        if text not in ("True", "False"):
            raise ValueError(f"{name} is {text!r}, neither True nor False")
        return text == "True"
    try:
        value = int(text) if wanted in (int, int | None) else float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which has no mean")
    return value
