"""`python -m benchmarks [names...] [output=<file>] [threads=<n>]`: one Markdown table of ratios.

`igd` and `coordination_gap` time nothing: each has a separate table above the ratios; so has `scale`, which also takes
its own keys (`size_gb=20 folder=/scratch`).
"""

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.gemm import gemm
from benchmarks.igd import coordination_gap, igd
from benchmarks.loader import loader
from benchmarks.options import options
from benchmarks.particle import particle
from benchmarks.planner import methods, planner
from benchmarks.scale import Settings, scale
from benchmarks.scaling import scaling
from benchmarks.table import Row, markdown
from benchmarks.time_to_score import time_to_score
from benchmarks.update import decision, update
from dof_lightning.config import messages
from dof_lightning.errors import UserError
from dof_lightning.evaluation.score import cores_per_process

BENCHMARKS: Mapping[str, Callable[[], list[Row]]] = {
    measure.__name__: measure
    for measure in (update, decision, scaling, gemm, loader, particle, planner, methods, options, time_to_score)
}
TABLES: Mapping[str, Callable[[], str]] = {"igd": igd, "coordination_gap": coordination_gap}
WITH_SETTINGS = ("scale",)
ONLY_WHEN_NAMED = ("planner", "methods", "options", "time_to_score")


def main(arguments: Sequence[str]) -> None:
    """Runs the named benchmarks, or all that take seconds.

    Raises:
        UserError: a name or a key is unknown.
    """
    names, output, threads, settings = parse(arguments)
    torch.set_num_threads(threads)
    started, rows, parts = time.monotonic(), [], []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name in TABLES:
            parts.append(TABLES[name]())
        elif name in WITH_SETTINGS:
            parts.append(scale(Settings.parse(settings)))
        else:
            rows += BENCHMARKS[name]()
    parts += [markdown(rows)] if rows else []
    text = "\n\n".join([*map(str.rstrip, parts), _circumstances(threads, time.monotonic() - started)]) + "\n"
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


def parse(arguments: Sequence[str]) -> tuple[list[str], Path | None, int, dict[str, str]]:
    """Parses names, file, number of threads, and the remaining keys for a benchmark that takes its own.

    Raises:
        UserError: a name or a key is unknown.
    """
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument]
    known = (*BENCHMARKS, *TABLES, *WITH_SETTINGS)
    for name in names:
        if name not in known:
            raise UserError(f"unknown benchmark `{name}`; choose from {', '.join(known)}")
    settings = {key: value for key, value in options.items() if key not in ("output", "threads")}
    if settings and not set(names) & set(WITH_SETTINGS):
        raise UserError(f"unknown key `{next(iter(settings))}`; choose from output, threads")
    threads = options.get("threads", str(cores_per_process(1)))
    if not threads.isdecimal() or threads == "0":
        raise UserError(f"threads={threads} must be a positive integer")
    output = Path(options["output"]) if "output" in options else None
    return names or [name for name in BENCHMARKS if name not in ONLY_WHEN_NAMED], output, int(threads), settings


def _circumstances(threads: int, seconds: float) -> str:
    return (
        f"Medians of interleaved repetitions, {threads} threads (particle: one core), torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}; {seconds:.0f} s in all."
    )


if __name__ == "__main__":
    sys.exit(messages.exit_with_one_line(lambda: main(sys.argv[1:])))
