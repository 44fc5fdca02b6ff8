"""Terminal output before and after training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dof_lightning.config.command_line import for_shell
from dof_lightning.config.origins import origin_of_values
from dof_lightning.spec import SCORE_TITLES, DatasetSpec, EnvSpec

if TYPE_CHECKING:
    from dof_lightning.algorithms.base import Algorithm

_PARTS = ("denoiser", "noise_factorization", "data_factorization", "value_mixer", "schedule", "sampler")


def make_console(quiet: bool = False, stderr: bool = False) -> Console:
    """Makes a console whose tables keep their width if the output is not a terminal.

    Markup is off, because users choose names such as `runs/[seed0]`, which are printed as they are.
    """
    screen = Console(quiet=quiet, stderr=stderr, markup=False, emoji=False)
    if not screen.is_terminal:
        screen.width = 160
    return screen


@contextmanager
def progress(totals: Mapping[str, float]) -> Iterator[list[Callable[[float], None]]]:
    """Shows progress bars that vanish when all is done; nothing if the output is not a terminal.

    Args:
        totals: the label of each bar, and the total of all its updates.

    Yields:
        for each bar, the function to call with the amount that has just been done.
    """
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bars:
        yield [partial(bars.advance, bars.add_task(what, total=total)) for what, total in totals.items()]


def show_start(
    console: Console, config: Mapping[str, Any], spec: DatasetSpec, algorithm: "Algorithm", hardware: str, where: str
) -> None:
    """Shows what is about to be trained, on which data and device."""
    environment, returns = spec.environment, spec.statistics.return_mean
    discrete = "discrete " if spec.action_kind == "discrete" else ""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row(
        "dataset",
        f"{spec.name} ({spec.fingerprint}), return {return_number(returns, returns)} (training part)",
    )
    table.add_row(
        "environment",
        f"{environment.name}: {spec.n_agents} agents, observations {spec.observation_dim}, "
        f"{discrete}actions {spec.action_dim}, {spec.horizon} steps",
    )
    table.add_row("model", _model(config))
    for number, line in enumerate(origin_of_values(config)):
        table.add_row("" if number else "values", line)
    parts = ", ".join(f"{group.name} {_count(group.parameters()):,}" for group in algorithm.parameter_groups())
    table.add_row("parameters", f"{_count(p for p in algorithm.parameters() if p.requires_grad):,} trained ({parts})")
    table.add_row("devices", hardware)
    steps, batch = config["trainer"]["max_steps"], config["data"]["global_batch_size"]
    table.add_row("training", f"{steps:,} steps of {batch} windows, {where}")
    for remark in algorithm.remarks():
        table.add_row("note", Text(remark))
    console.print(table)


def _model(config: Mapping[str, Any]) -> str:
    """Describes the algorithm and its parts, with the numbers that tuned values may have changed."""
    choices = config["choices"]
    used = set(config["algorithm"])
    if config["algorithm"].get("critics", "mixed") != "mixed":
        used.discard("value_mixer")
    parts = [f"{part}={choices[part]}{_steps(config, part)}" for part in _PARTS if part in used]
    return str(choices["algorithm"]) + (f" ({', '.join(parts)})" if parts else "")


def _steps(config: Mapping[str, Any], part: str) -> str:
    if part == "schedule":
        return f" (K={config[part]['steps']})"
    if part == "sampler":
        return f" ({config[part]['steps'] or config['schedule']['steps']} steps)"
    return ""


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def show_scores(
    console: Console, scores: Mapping[str, Mapping[str, Any]], behavior: Mapping[str, Any], env: EnvSpec
) -> None:
    """Shows the table of scores, with rows of the behaviour and the random policy for comparison."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    names = list(env.references) if env.own_reference is not None else ["normalized_score"]
    titles = [SCORE_TITLES[name] for name in names]
    returns = float(behavior["return_mean"])
    winnable = any("win_rate" in score for score in scores.values())
    for column in ("policy", "return", *titles, "std over episodes", "episodes", "acts alone"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    if winnable:
        table.add_column("win rate", justify="right")
    for name, score in scores.items():
        if status := score.get("status"):
            table.add_row(name, str(status))
            continue
        name = f"{name} (shared seed of {score['shared_seeds']})" if "shared_seeds" in score else name
        name = f"{name} (centralised)" if score.get("execution") == "centralized" else name
        normalized = [number(score.get(which)) for which in names]
        spread = return_number(score["return_std"], returns)
        row = (return_number(score["return_mean"], returns), *normalized, spread, str(score["episodes"]))
        table.add_row(name, *row, acts_alone(score), *_wins(score, winnable))
    references = env.references
    normalized = [number(references[which].normalize(returns) if which in references else None) for which in names]
    row = (return_number(returns, returns), *normalized, return_number(behavior["return_std"], returns))
    table.add_row("behaviour (data)", *row, "", "", *_wins(behavior, winnable))
    for which, reference in references.items():
        whose = " of the own score" if which == "own_normalized_score" else ""
        for end, value, hundredth in (("random", reference.random, "0.0"), ("expert", reference.expert, "100.0")):
            title = f"{end}{whose}" if whose or end == "random" else f"{end} (reference)"
            table.add_row(title, f"{value:.1f}", *(hundredth if n == which else "" for n in names))
    console.print(table)
    if env.own_reference is not None:
        for which, reference in references.items():
            console.print(f"{SCORE_TITLES[which]}: {reference.source}", highlight=False, soft_wrap=True)


def show_heldout(console: Console, losses: Mapping[str, float]) -> None:
    """Shows the held-out losses if nothing was played."""
    if not losses:
        console.print("no episode is held out: there is no loss to report either")
    for name, value in losses.items():
        console.print(f"{name:32} {value:.4g}", highlight=False)


def _wins(measured: Mapping[str, Any], winnable: bool) -> tuple[str, ...]:
    """The cell of the win-rate column, which exists only if something can be won."""
    return (f"{measured['win_rate']:.3f}" if "win_rate" in measured else "-",) if winnable else ()


def return_number(value: float, like: float) -> str:
    """A return in a table's cell: one decimal, or three if returns `like` it are below 10."""
    return f"{value:.1f}" if abs(like) >= 10 else f"{value:.3f}"


def acts_alone(score: Mapping[str, Any]) -> str:
    """The result of a score's certificate, in a table's cell."""
    certificate = score["certificate"]
    delta = f"delta {certificate['max_abs_delta']:.2g}"
    if score.get("execution") == "centralized":
        return f"NO, centralised ({delta})"
    notes = ", told its rewards" if certificate.get("observes_rewards") else ""
    notes += f", {certificate['pairs']} of {certificate['all_pairs']} pairs tried" if "pairs" in certificate else ""
    notes += f", shared seed of {score['shared_seeds']}" if score.get("shared_seeds") else ""
    return ("certified" if certificate["passed"] else f"NO ({delta})") + notes


def number(value: float | None) -> str:
    """A number with one decimal, in a table's cell."""
    return "-" if value is None else f"{value:.1f}"


def show_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Shows a study's table; columns of numbers are right-aligned."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numbers = all(row[index].lstrip("-")[:1].isdigit() or row[index] == "-" for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_next_commands(console: Console, commands: Mapping[str, Sequence[str]]) -> None:
    """Shows the commands to run next, ready to be pasted.

    Args:
        console: the console to print to.
        commands: by purpose, the words of each.
    """
    for purpose, words in commands.items():
        console.print(f"{purpose:18} {for_shell(*words)}", highlight=False, soft_wrap=True)
