"""Output of `dof data list` and `dof data show`: a list of datasets, known and on disk, and a dataset's card."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_modules.storage.card import Section, sections, size
from data_modules.storage.manifest import FILE_NAME, DatasetManifest, read_manifest
from dof_lightning.errors import UserError

_COLUMNS = ("dataset", "environment", "agents", "episodes", "return", "score", "won", "size", "fingerprint", "folder")
_COLUMNS_WHERE_NARROW = ("folder", "episodes", "return", "score", "size")
_ANY_WIDTH = 10_000
_NOT_KNOWN = "-"


@dataclass(frozen=True)
class KnownDataset:
    """A dataset that the configuration can name.

    Attributes:
        name: the name in its manifest.
        environment: option of group env, for display.
        build: the command that makes it.
    """

    name: str
    environment: str
    build: str


def find_datasets(root: Path) -> list[Path]:
    """Folders below `root` (two levels at most) that hold a `dataset.json`, in alphabetical order."""
    files = (file for depth in ("*", "*/*") for file in Path(root).glob(f"{depth}/{FILE_NAME}"))
    return sorted(file.parent for file in files if not file.parent.name.startswith("."))


@dataclass(frozen=True)
class _OnDisk:
    """A table of the datasets below a folder; on a narrow screen, without what the folder's name already contains.

    Attributes:
        title: the table's title.
        rows: cells of `_COLUMNS`.
    """

    title: str
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the widest table that fits (rich's hook)."""
        wide = self._table(_COLUMNS)
        wanted = Measurement.get(console, options.update(width=_ANY_WIDTH), wide).maximum
        yield wide if wanted <= options.max_width else self._table(_COLUMNS_WHERE_NARROW)

    def _table(self, columns: Sequence[str]) -> Table:
        table = Table(title=self.title, box=None, padding=(0, 2, 0, 0), title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            cells = dict(zip(_COLUMNS, row, strict=True))
            table.add_row(*(cells[column] for column in columns))
        return table


def list_datasets(root: Path, known: Sequence[KnownDataset] = ()) -> RenderableType:
    """Lists each dataset below `root` in a line, and the commands that build the known ones that are missing.

    The line of a damaged dataset names the defect.
    """
    rows, damaged, names = [], [], set()
    for folder in find_datasets(root):
        where = str(folder.relative_to(root))
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            damaged.append(Text(f"{where}: {error}", style="red"))
            continue
        names.add(manifest.spec.name)
        rows.append([*_summary(manifest), where])
    missing = [dataset.build for dataset in known if dataset.name not in names]
    if not (rows or damaged):
        how = "make one with a command below" if known else "build one with `dof data build`"
        on_disk: RenderableType = Text(f"no datasets in {root}: {how}, or correct data.root")
    else:
        on_disk = _OnDisk(f"on disk, in {root}", rows)
    commands = Text("\n".join(missing), no_wrap=True, overflow="ignore")
    below = [Text("\nknown, not on disk; make them with", style="italic"), commands] if missing else []
    return Group(on_disk, *damaged, *below)


def describe(path: Path | str) -> RenderableType:
    """A dataset's card.

    Raises:
        UserError: see `read_manifest`.
    """
    manifest = read_manifest(path)
    folder = Text(f"folder  {manifest.location}", style="bold")
    card = Group(folder, *(_print(section) for section in sections(manifest)))
    return Panel(card, title=manifest.spec.name, title_align="left")


def _summary(manifest: DatasetManifest) -> Iterator[str]:
    spec, behavior = manifest.spec, manifest.behavior
    reference, won = spec.environment.reference, behavior.get("win_rate")
    yield spec.name
    yield spec.environment.name
    yield str(spec.n_agents)
    yield f"{manifest.n_episodes:,}"
    yield f"{behavior['return_mean']:.2f} ± {behavior['return_std']:.2f}"
    yield _NOT_KNOWN if reference is None else f"{reference.normalize(behavior['return_mean']):.1f}"
    yield _NOT_KNOWN if won is None else f"{100 * won:.0f} %"
    yield size(manifest.n_bytes)
    yield spec.fingerprint


def _print(section: Section) -> RenderableType:
    parts: list[RenderableType] = ["", Text(section.title, style="bold underline")] if section.title else [""]
    if section.facts is not None:
        facts = Table.grid(padding=(0, 2))
        for name, value in section.facts.items():
            facts.add_row(Text(name, style="bold"), Text(value))
        parts.append(facts)
    if section.rows:
        table = Table(*section.header, box=None)
        for row in section.rows:
            table.add_row(*row)
        parts.append(table)
    parts.extend(Text(line) for line in section.lines)
    return Group(*parts)
