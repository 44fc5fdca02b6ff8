"""Writing and streaming of datasets larger than memory: seconds, windows per second, memory. Runs only when named.

Every measurement is made in a separate process, whose memory has held nothing else.
"""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self, TypeVar

from benchmarks import large_data
from data_modules.convert.importing import import_dataset
from data_modules.episodes import EpisodeDataModule
from data_modules.storage.manifest import read_manifest
from dof_lightning.batch import Window
from dof_lightning.errors import UserError
from dof_lightning.files import to_markdown

IN_MEMORY_GB = 0.2
WINDOWS = ((Window(history=0, horizon=1), 512), (Window(history=0, horizon=24), 64))

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """The settings that `key=value` tails may change.

    Attributes:
        size_gb: size of the shards, 10^9 bytes; as much again is needed on disk for a moment.
        folder: where they are written, and deleted afterwards.
        memory_mb: `data.memory_mb` of the stream.
        num_workers: `data.num_workers`.
        seconds: for how long each stream is read after its first batch.
        importer: `omar`: a folder in OMAR's layout is imported (and verified), and `size_gb` is that folder's. Empty:
            shards are written from a generator.
    """

    size_gb: float = 2.0
    folder: str = "."
    memory_mb: float = 250.0
    num_workers: int = 0
    seconds: float = 30.0
    importer: str = ""

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Self:
        """Reads the settings from the command line.

        Raises:
            UserError: a key is unknown, or its value is no number.
        """
        kinds: dict[str, Callable[[str], Any]] = {name: type(value) for name, value in asdict(cls()).items()}
        for key in values:
            if key not in kinds:
                raise UserError(f"unknown key `{key}`; scale knows {', '.join(kinds)}")
        try:
            settings = cls(**{key: kinds[key](value) for key, value in values.items()})
        except ValueError as error:
            raise UserError(f"scale: {error}; give a number") from error
        if settings.importer not in ("", "omar"):
            raise UserError(f"importer={settings.importer} is unknown; choose omar, or leave it out")
        if not Path(settings.folder).is_dir():
            raise UserError(f"folder={settings.folder} is not there; create it")
        return settings


@dataclass(frozen=True)
class Written:
    """Measurements of writing a dataset.

    Attributes:
        n_bytes: size of its shards.
        source_bytes: size of the folder it was imported from, else of its shards.
        n_shards: number of shards.
        seconds: time it took.
        growth_mb: growth of anonymous memory while it was written.
    """

    n_bytes: int
    source_bytes: int
    n_shards: int
    seconds: float
    growth_mb: float


@dataclass(frozen=True)
class Read:
    """Measurements of reading batches.

    Attributes:
        first_batch_s: seconds from the manifest to the first batch, held-out episodes included.
        windows_a_second: windows per second from then on.
        growth_mb: growth of anonymous memory over the whole time.
    """

    first_batch_s: float
    windows_a_second: float
    growth_mb: float


def anonymous_mb(process: int | str = "self") -> float:
    """`RssAnon` of a process and all its descendants, in 10^6 bytes; memory shared by forked processes counts once.

    This is the memory that has to fit into the machine (Linux). Processes that have ended count nothing.
    """
    folder = Path("/proc") / str(process)
    try:
        rollup = (folder / "smaps_rollup").read_text(encoding="utf-8")
        children = [
            child
            for task in (folder / "task").iterdir()
            for child in (task / "children").read_text(encoding="utf-8").split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = [int(line.split()[1]) * 1024 / 1e6 for line in rollup.splitlines() if line.startswith("Pss_Anon:")]
    return sum(own) + sum(anonymous_mb(child) for child in children)


@dataclass
class Growth:
    """The growth of memory over a period.

    Attributes:
        before_mb: at the start.
        peak_mb: the largest value seen.
    """

    before_mb: float
    peak_mb: float

    @property
    def mb(self) -> float:
        """The growth from the start to the peak."""
        return self.peak_mb - self.before_mb


@contextmanager
def watched(every_s: float = 0.02) -> Iterator[Growth]:
    """Samples this process's memory every so often; a shorter peak may be missed."""
    before = anonymous_mb()
    growth, ended = Growth(before, before), Event()

    def look() -> None:
        while not ended.wait(every_s):
            growth.peak_mb = max(growth.peak_mb, anonymous_mb())

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        ended.set()
        thread.join()
        growth.peak_mb = max(growth.peak_mb, anonymous_mb())


def scale(settings: Settings) -> str:
    """Measures writing and reading; returns two Markdown tables."""
    with tempfile.TemporaryDirectory(dir=settings.folder, prefix="scale-") as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        written = alone(write, large, settings.size_gb, settings.importer)
        alone(write, small, IN_MEMORY_GB)
        streamed = [_row(large, settings, window, size, written.n_bytes, small) for window, size in WINDOWS]
    columns = ("written", "GB", "from, GB", "seconds", "from, MB/s", "growth of anonymous memory, MB")
    table = to_markdown(columns, [_describe(written)])
    columns = ("batches", "in memory, windows/s", "streamed, windows/s", "ratio", "first batch, s", "growth, MB")
    return f"{table}\n{to_markdown(columns, streamed)}"


def write(path: Path, size_gb: float, importer: str = "") -> Written:
    """Writes a made-up dataset, block by block: generated, or imported from a folder that is deleted afterwards."""
    source_bytes = 0
    if importer:
        source = path.with_name("omar") / "seed_0_data"
        source_bytes = alone(large_data.write_omar_folder, source, large_data.omar_episodes_for(size_gb * 1e9))
        make: Callable[[], Any] = partial(import_dataset, importer, source.parent, path.name, path.parent)
    else:
        make = partial(large_data.write_shards, path, large_data.episodes_for(size_gb * 1e9))
    started = time.perf_counter()
    with watched() as memory:
        make()
    seconds = time.perf_counter() - started
    if importer:
        shutil.rmtree(source.parent)
    manifest = read_manifest(path)
    return Written(manifest.n_bytes, source_bytes or manifest.n_bytes, len(manifest.shards), seconds, memory.mb)


def read(
    path: Path, window: Window, batch_size: int, memory_mb: float | None, num_workers: int, seconds: float
) -> Read:
    """Reads batches for a while, and does nothing else."""
    data = EpisodeDataModule(path, window, global_batch_size=batch_size, memory_mb=memory_mb, num_workers=num_workers)
    with watched() as memory:
        started = time.perf_counter()
        data.setup()
        batches = iter(data.train_dataloader())
        next(batches)
        first = time.perf_counter()
        n_batches = 0
        while time.perf_counter() - first < seconds:
            next(batches)
            n_batches += 1
        speed = n_batches * batch_size / (time.perf_counter() - first)
    return Read(first - started, speed, memory.mb)


def alone(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls a function of a module in a fresh process, which forks workers as any process of a run does."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, _fork_from_now_on) as executor:
        return executor.submit(function, *arguments).result()


def _fork_from_now_on() -> None:
    multiprocessing.set_start_method("fork", force=True)


def _row(large: Path, settings: Settings, window: Window, size: int, n_bytes: int, small: Path) -> tuple[str, ...]:
    held = alone(read, small, window, size, None, 0, settings.seconds / 3)
    found = alone(read, large, window, size, settings.memory_mb, settings.num_workers, settings.seconds)
    what = f"{n_bytes / 1e9:.1f} GB, {window.length} rows, B = {size}, memory_mb = {settings.memory_mb:g}"
    ratio = found.windows_a_second / held.windows_a_second
    speeds = f"{held.windows_a_second:,.0f}", f"{found.windows_a_second:,.0f}", f"{ratio:.2f}"
    return what, *speeds, f"{found.first_batch_s:.1f}", f"{found.growth_mb:.0f}"


def _describe(written: Written) -> tuple[str, ...]:
    sizes = f"{written.n_bytes / 1e9:.1f}", f"{written.source_bytes / 1e9:.1f}"
    speed = written.source_bytes / 1e6 / written.seconds
    return f"{written.n_shards} shards", *sizes, f"{written.seconds:.0f}", f"{speed:.0f}", f"{written.growth_mb:.0f}"
