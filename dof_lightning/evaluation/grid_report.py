"""Output of a sweep: its table on screen, in Markdown and in CSV, and its figure."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.config.command_line import for_shell
from dof_lightning.console import acts_alone, number, show_table
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.grid import Result
from dof_lightning.evaluation.score import DECISION_REPETITIONS, normalize
from dof_lightning.files import to_csv, to_markdown, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = "sampler.steps"
COLUMNS = ("return", "standard error", "normalised score", "ms a decision", "acts alone")


@dataclass(frozen=True)
class Files:
    """The files that a sweep is written to.

    Attributes:
        table: the Markdown table.
        values: the same table in CSV, not rounded.
        figure: the PNG figure.
    """

    table: Path
    values: Path
    figure: Path


def files(checkpoint: Path, keys: Sequence[str], output: Path | None = None) -> Files:
    """`<run_dir>/sweeps/<checkpoint>_<keys>.{md,csv,png}`; another sweep over the same keys replaces them.

    Args:
        checkpoint: the checkpoint, whose run folder is used; the files of one outside a run folder are beside it.
        keys: the keys that are listed.
        output: a folder to use instead of `<run_dir>/sweeps`.

    Raises:
        UserError: the folder cannot be created.
    """
    run_dir = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    folder = run_dir / "sweeps" if output is None else output
    above = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"output={folder} cannot be created, because {above} is not a folder; choose another output=")
    name = "_".join((checkpoint.stem, *keys))
    return Files(folder / f"{name}.md", folder / f"{name}.csv", folder / f"{name}.png")


def show(console: Console, results: Sequence[Result]) -> None:
    """Prints the table."""
    show_table(console, _columns(results), list(map(_cells, results)))
    console.print(_circumstances(), highlight=False, soft_wrap=True)


def write(
    where: Files, checkpoint: Checkpoint, tails: Sequence[str], results: Sequence[Result], env: VectorEnv
) -> None:
    """Writes the three files.

    Args:
        where: the result of `files`.
        checkpoint: the checkpoint that was evaluated.
        tails: the arguments typed besides the checkpoint.
        results: at least one result.
        env: the environment that was played, whose reference normalises the behaviour's return.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        where.table.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(where.table, _markdown(where, checkpoint, tails, results))
        rows = [_flat(result) for result in results]
        write_atomically(where.values, to_csv(list(rows[0]), [list(row.values()) for row in rows]))
        _draw(where.figure, checkpoint, results, env)
    except OSError as error:
        raise UserError(f"output={where.table.parent} cannot be written: {error.strerror}") from error


def _columns(results: Sequence[Result]) -> list[str]:
    return [*results[0].variant.settings, *COLUMNS, *(["own score"] if _has_own(results[0]) else [])]


def _has_own(result: Result) -> bool:
    return result.score.own_normalized_score is not None


def _cells(result: Result) -> list[str]:
    score = result.score
    error = _standard_error(result, None)
    settings = list(map(_spelled, result.variant.settings.values()))
    numbers = [number(value) for value in (score.return_mean, error, score.normalized_score)]
    own = [number(score.own_normalized_score)] if _has_own(result) else []
    return [*settings, *numbers, f"{result.decision_ms:.3g}", acts_alone(score.to_dict()), *own]


def _circumstances() -> str:
    return (
        f"ms a decision: all agents of one episode at once, fastest of {DECISION_REPETITIONS} interleaved repetitions, "
        f"measured on this machine ({platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__})"
    )


def _markdown(where: Files, checkpoint: Checkpoint, tails: Sequence[str], results: Sequence[Result]) -> str:
    table = to_markdown(_columns(results), list(map(_cells, results)))
    behavior, figure = checkpoint.behavior["return_mean"], f"![return and time]({where.figure.name})"
    return (
        f"`{for_shell('dof', 'eval', f'checkpoint={checkpoint.path}', *tails)}` (step {checkpoint.step}, "
        f"{results[0].score.episodes} report episodes)\n\n{table}\n"
        f"The data's behaviour has a return of {behavior:.1f}. {_circumstances()}.\n\n{figure}\n"
    )


def _flat(result: Result) -> dict[str, Any]:
    values = result.to_dict()
    certificate = values.pop("certificate")
    execution = values.pop("execution", "decentralized")
    return values.pop("settings") | values | {"certified": certificate["passed"], "execution": execution}


def _draw(path: Path, checkpoint: Checkpoint, results: Sequence[Result], env: VectorEnv) -> None:
    """Draws scores with standard errors above, decision times below, against sampler steps or the first listed key."""
    from matplotlib.figure import Figure

    keys = list(results[0].variant.settings)
    across = STEPS if STEPS in keys else keys[0]
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    behavior = checkpoint.behavior["return_mean"]
    normalized = all(result.score.normalized_score is not None for result in results)
    places = dict(zip(map(id, results), _places(results, across), strict=True))
    for name, group in _lines(results, across).items():
        x = [places[id(result)] for result in group]
        scores = [result.score.normalized_score if normalized else result.score.return_mean for result in group]
        errors = [_standard_error(result, env if normalized else None) for result in group]
        above.errorbar(x, scores, errors, marker="o", capsize=3, label=name)
        below.plot(x, [result.decision_ms for result in group], marker="o", label=name)
    height = normalize(env, behavior) if normalized else behavior
    assert height is not None
    above.axhline(height, color="grey", linestyle="--", label="behaviour (data)")
    above.set_ylabel("normalised score" if normalized else "return")
    above.legend()
    below.set_ylabel("ms a decision, this machine")
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter("{x:g}")
    below.set_xlabel(across)
    _scale(below, list(places.values()))
    figure.savefig(path, dpi=120)


def _standard_error(result: Result, env: VectorEnv | None) -> float:
    """Standard error of the mean return over episodes, in units of the normalised score if an environment is given."""
    error = result.score.return_std / math.sqrt(result.score.episodes)
    if env is None or env.spec.reference is None:
        return error
    return env.spec.reference.normalize(error) - env.spec.reference.normalize(0.0)


def _lines(results: Sequence[Result], across: str) -> dict[str, list[Result]]:
    """Groups results that differ in one key, by the values of the others."""
    lines: dict[str, list[Result]] = {}
    for result in results:
        settings = [f"{key}={value}" for key, value in result.variant.settings.items() if key != across]
        lines.setdefault(" ".join(settings) or "checkpoint", []).append(result)
    return lines


def _place(result: Result, across: str) -> float | str:
    """The position on the horizontal axis: a number or a name."""
    value = result.variant.sampler_steps if across == STEPS else result.variant.settings[across]
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else _spelled(value)


def _places(results: Sequence[Result], across: str) -> list[float | str]:
    """The positions of all results: numbers, or names as soon as one of them is no number."""
    places = [_place(result, across) for result in results]
    return list(map(str, places)) if any(isinstance(place, str) for place in places) else places


def _spelled(value: Any) -> str:
    return "null" if value is None else str(value)


def _scale(axes: "Axes", places: Sequence[float | str]) -> None:
    """Sets a logarithmic axis if all places are numbers above 0, with a tick at each."""
    numbers = sorted({place for place in places if not isinstance(place, str)})
    if len(numbers) == len(set(places)) and numbers[0] > 0:
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{place:g}" for place in numbers])
        axes.set_xticks([], minor=True)
