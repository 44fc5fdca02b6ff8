"""`dof report`: its arguments and its output files."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dof_lightning.config.command_line import take, take_integer, take_positive, take_truth
from dof_lightning.errors import UserError
from dof_lightning.files import to_csv, write_atomically
from dof_lightning.report.aggregates import Comparison, aggregates, comparisons
from dof_lightning.report.figures import method_styles, pictures, summary
from dof_lightning.report.gathering import Group, gather
from dof_lightning.report.rendering import Report, latex, markdown, page
from dof_lightning.report.statistics import INSTALL, installed
from dof_lightning.report.summary import standings
from dof_lightning.report.tables import commands, details, flat, published_scores, scores

_ENDINGS = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "html": ".html"}
FORMATS = tuple(_ENDINGS)
_TARGET = 0.95  # share of the data's return
_KNOWN = ("output", "name", "title", "against", "target", "seed", "formats", "overwrite")


def report(arguments: Sequence[str]) -> list[Path]:
    """Writes a report of stores and run folders.

    Args:
        arguments: folders, and key=value: `output` (a folder), `name` (the files' name), `title`, `against` (the method
            whose probability of scoring more is reported), `target` (share of the data's return for the time to reach
            it), `seed` (the bootstrap's seed), `formats`, `overwrite` (true: replace existing files).

    Returns:
        the files.

    Raises:
        UserError: an argument names nothing that exists, there is nothing to report, or existing files would be
            replaced.
    """
    paths = [Path(text) for text in arguments if "=" not in text or Path(text).exists()]
    tails = [text for text in arguments if Path(text) not in paths]
    output, tails = take(tails, "output")
    name, tails = take(tails, "name")
    title, tails = take(tails, "title")
    against, tails = take(tails, "against")
    target, tails = take_positive(tails, "target")
    seed, tails = take_integer(tails, "seed", default=0, least=0)
    formats, tails = _take_formats(tails)
    overwrite, tails = take_truth(tails, "overwrite", default=False)
    if tails:
        raise UserError(f"unknown key `{tails[0].partition('=')[0]}`; dof report takes {', '.join(_KNOWN)}")
    if not paths:
        raise UserError("name results stores or run folders, as `dof report benchmarks/results/smoke`")
    missing = next((path for path in paths if not path.is_dir()), None)
    if missing is not None:
        raise UserError(f"{missing} is not a folder; name results stores or run folders")
    stem = _stem(output or "report", name or "report")
    there = [path for path in _files(stem, formats).values() if path.exists() and not overwrite]
    if there:
        raise UserError(f"{there[0]} exists already; choose another name= or output=, or add overwrite=true")
    groups = gather(paths, left_out=lambda line: sys.stderr.write(f"left out: {line}\n"))
    if against is not None and against not in {group.label for group in groups}:
        raise UserError(f"against={against} is not one of {', '.join(dict.fromkeys(group.label for group in groups))}")
    made = _made(groups, title or "Results", f"dof report {shlex.join(arguments)}", against, target or _TARGET, seed)
    return _write(made, groups, stem, formats)


def _made(groups: Sequence[Group], title: str, command: str, against: str | None, target: float, seed: int) -> Report:
    compared, styles = _comparisons(groups, against, seed), method_styles(groups)
    environments = dict.fromkeys(group.environment for group in groups)
    return Report(
        title=title,
        command=command,
        parts=(
            summary(list(standings(groups, against, seed)), styles),
            *(scores(groups, environment) for environment in environments),
            *pictures(groups, compared, styles),
            *aggregates(compared),
            *(table for environment in environments for table in published_scores(groups, environment)),
            details(groups, target),
            commands(groups),
        ),
    )


def _comparisons(groups: Sequence[Group], against: str | None, seed: int) -> list[Comparison]:
    """The comparisons over several tasks; without the extra, it prints one line and returns none."""
    compared = comparisons(groups, against, seed)
    if compared and not installed():
        sys.stderr.write(f"left out, because rliable is not installed: comparisons over several tasks; {INSTALL}\n")
        return []
    return compared


def _stem(output: str, name: str) -> Path:
    """The path of the report's files, without their endings."""
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"name={name} must be a file name without a folder; set output= for the folder")
    return Path(output) / name


def _files(stem: Path, formats: Sequence[str]) -> dict[str, Path]:
    """The file of each format; the pictures of `<stem>.md` are in `<stem>_figures/`."""
    return {format_: stem.with_name(f"{stem.name}{_ENDINGS[format_]}") for format_ in formats}


def _write(made: Report, groups: Sequence[Group], stem: Path, formats: Sequence[str]) -> list[Path]:
    files = _files(stem, formats)
    texts: dict[Path, str] = {}
    if "markdown" in formats:
        figures = stem.with_name(f"{stem.name}_figures")
        texts[files["markdown"]] = markdown(made, images=figures.name)
        shown = [panel for picture in made.pictures for panel in picture.panels]
        texts |= {figures / f"{panel.name}.svg": panel.svg() for panel in shown}
    if "latex" in formats:
        texts[files["latex"]] = latex(made.tables)
    if "csv" in formats:
        columns, rows = flat(groups)
        texts[files["csv"]] = to_csv(columns, rows)
    if "html" in formats:
        texts[files["html"]] = page(made)
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
    except OSError as error:
        raise UserError(f"output={stem.parent} cannot be written: {error.strerror}") from error
    return list(texts)


def _take_formats(tails: list[str]) -> tuple[list[str], list[str]]:
    text, others = take(tails, "formats")
    chosen = list(FORMATS) if text is None else text.strip("[]").split(",")
    unknown = next((name for name in chosen if name not in FORMATS), None)
    if unknown is not None:
        raise UserError(f"formats={text}: {unknown!r} is unknown; choose among {','.join(FORMATS)}")
    return chosen, others
