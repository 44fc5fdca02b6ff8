"""Ratios of times, and the one table that reports them all."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dof_lightning.files import to_markdown

HEADER = ("benchmark", "measured", "against", "ratio", "aim", "remark")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: its name on the command line.
        measured: what was measured.
        against: the yardstick.
        ratio: the yardstick's time over ours (or as in `remark`); None if there is nothing to measure.
        aim: the ratio that is aimed at, with its sign.
        remark: information that a reader needs to judge the ratio, or why there is none.
    """

    benchmark: str
    measured: str
    against: str
    ratio: float | None
    aim: str = ""
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        """The cells as text, in the order of `HEADER`."""
        ratio = "-" if self.ratio is None else f"{self.ratio:.3g}"
        return self.benchmark, self.measured, self.against, ratio, self.aim, self.remark


def markdown(rows: Sequence[Row]) -> str:
    """Renders the rows as one Markdown table."""
    return to_markdown(HEADER, [row.cells() for row in rows])


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The ratio of two times in the same repetition, median over repetitions."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
