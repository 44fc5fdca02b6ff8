"""What is written to files: whole or not at all; tables as Markdown and CSV, and the numbers in them."""

import csv
import io
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file so that a killed process leaves the old or the new content."""
    draft = path.with_suffix(f"{path.suffix}.{os.getpid()}.tmp")
    draft.write_text(text)
    draft.replace(path)


def text(value: Any, digits: int = 3) -> str:
    """A number as it stands in a table; anything else as it is."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def over_seeds(values: "Sequence[float] | np.ndarray", digits: int = 1) -> str:
    """Mean, and with several seeds the standard deviation over them (Bessel's correction): `44.8 ± 3.1`."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [list(columns), ["---"] * len(columns), *([text(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The same as comma-separated values, numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
