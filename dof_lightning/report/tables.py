"""What a report says in tables."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dof_lightning.report import statistics as over_runs
from dof_lightning.report.gathering import Group, behavior_score, point_score, score_of
from dof_lightning.report.published import SOURCE, Published, published

LEAST_SEEDS = 5  # before a report may be read as a ranking
REPETITIONS = 2000  # draws of the bootstrap


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: above it.
        columns, rows: texts.
        note: below it; may be empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def environments(groups: Sequence[Group]) -> list[str]:
    """The environments in the order of their first group."""
    return list(dict.fromkeys(group.environment for group in groups))


def datasets(groups: Sequence[Group]) -> list[str]:
    """The datasets in the order of their first group."""
    return list(dict.fromkeys(group.dataset for group in groups))


def labels(groups: Sequence[Group]) -> list[str]:
    """The methods, those with the largest mean score first."""
    names = list(dict.fromkeys(group.label for group in groups))
    mean = {name: np.mean([group.scores().mean() for group in groups if group.label == name]) for name in names}
    return sorted(names, key=lambda name: -mean[name])


def mean_and_std(values: Sequence[float] | np.ndarray, digits: int = 1) -> str:
    """`44.8 ± 3.1`, the standard deviation over seeds with Bessel's correction; the mean alone of one value."""
    values = [float(value) for value in values]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def scores(groups: Sequence[Group], environment: str) -> Table:
    """Of one environment: a row a method, a column a dataset, and the published numbers where they may stand."""
    here = [group for group in groups if group.environment == environment]
    sets, kinds = datasets(here), dict.fromkeys(group.kind for group in here)
    told = {(group.label, group.dataset): (group, published(group)) for group in here}
    beside = [name for name in sets if any(_stands(told.get((label, name)), same=True) for label in labels(here))]
    apart = [name for name in sets if any(_stands(told.get((label, name)), same=False) for label in labels(here))]
    columns = ["method", *(column for name in sets for column in _columns(name, environment, name in beside))]
    columns += [f"{_quality(name, environment)}, published in another world" for name in apart]
    rows = [["the data's behaviour", *(cell for name in sets for cell in _behavior(here, name, name in beside))]]
    rows[0] += ["" for _ in apart]
    for label in labels(here):
        found = {name: told.get((label, name)) for name in sets}
        row = [label, *(cell for name in sets for cell in _cells(found[name], name in beside))]
        rows.append([*row, *(_number(found[name], same=False) for name in apart)])
    return Table(f"{environment}: {', '.join(kinds)}", tuple(columns), tuple(map(tuple, rows)), _note(here, told))


def _columns(dataset: str, environment: str, beside: bool) -> list[str]:
    quality = _quality(dataset, environment)
    return [f"{quality}, last", "best", *(["published, of other data"] if beside else [])]


def _quality(dataset: str, environment: str) -> str:
    return dataset.removeprefix(environment).strip("_").replace("_", " ") or dataset


def _behavior(groups: Sequence[Group], dataset: str, beside: bool) -> list[str]:
    record = next(group.records[0] for group in groups if group.dataset == dataset)
    return [f"{behavior_score(record):.1f}", "", *([""] if beside else [])]


def _cells(found: tuple[Group, Published | None] | None, beside: bool) -> list[str]:
    if found is None:
        return ["-", "-", *(["-"] if beside else [])]
    group = found[0]
    last = f"{mean_and_std(group.scores())} ({group.n_seeds}){_caveat(group)}"
    return [last, mean_and_std(group.scores("best")), *([_number(found, same=True)] if beside else [])]


def _caveat(group: Group) -> str:
    """What has to be said wherever a number stands."""
    first = group.records[0]
    said = ["centralized"] if first.execution == "centralized" else []
    said += [f"shared seed of {first.shared_seeds}"] if first.shared_seeds else []
    alone = first.execution == "decentralized"
    said += ["stopped early"] if any(record.steps < record.budget_steps for record in group.records) else []
    said += ["NOT CERTIFIED"] if alone and not all(record.certified for record in group.records) else []
    return f" [{', '.join(said)}]" if said else ""


def _stands(found: tuple[Group, Published | None] | None, same: bool) -> bool:
    return found is not None and found[1] is not None and found[1].same_world == same


def _number(found: tuple[Group, Published | None] | None, same: bool) -> str:
    if found is None or found[1] is None or found[1].same_world != same:
        return "-"
    unit = "" if found[1].metric == "normalized score" else f" ({found[1].metric})"
    return f"{found[1].mean:.1f} ± {found[1].std:.1f}{unit}"


def _note(groups: Sequence[Group], told: dict[tuple[str, str], tuple[Group, Published | None]]) -> str:
    seeds = [group.n_seeds for group in groups]
    said = ["Mean ± standard deviation over seeds, their number in brackets; last checkpoint on the report episodes."]
    said += ["*best* is the checkpoint that was best on other episodes, on the same report episodes."]
    if min(seeds) < LEAST_SEEDS:
        said.append(f"Fewer than {LEAST_SEEDS} seeds in places: a sanity check, from which no ranking follows.")
    numbers = [number for _, number in told.values() if number is not None]
    if any(number.same_world for number in numbers):
        said.append(f"*published*: {SOURCE}; the same task, but data of other behaviours, so no comparison of methods.")
    worlds = sorted({number.world for number in numbers if not number.same_world})
    if worlds:
        said.append(f"*published in another world*: {SOURCE}, {', '.join(worlds)}: another opponent or another game.")
    return " ".join(said)


def details(groups: Sequence[Group], target: float) -> Table:
    """A row a method and dataset: returns, wins, time, memory; `target` is the share of the data's return to reach."""
    columns = (
        "dataset",
        "method",
        "seeds",
        "return",
        "wins",
        "updates",
        "wall s",
        "memory MB",
        "decision ms",
        "s to reach",
    )
    rows = []
    for group in sorted(groups, key=lambda group: (group.environment, group.dataset)):
        wins = [f"{value:.2f}" for value in [np.mean(v) for v in [group.values("last_win_rate")] if v]]
        rows.append(
            (
                group.dataset,
                group.label,
                str(group.n_seeds),
                mean_and_std([record.last_return for record in group.records], 2 if _small(group) else 1),
                wins[0] if wins else "-",
                " or ".join(f"{steps:,}" for steps in sorted({record.steps for record in group.records})),
                f"{np.median([record.wall_seconds for record in group.records]):.0f}",
                f"{max(record.peak_memory_mb for record in group.records):.0f}",
                f"{min(decision):.3g}" if (decision := group.values("decision_ms")) else "-",
                _seconds(group, target),
            )
        )
    devices = sorted({record.device for group in groups for record in group.records})
    note = (
        "Medians over seeds, memory the largest, decisions (all agents of one episode) the fastest; on "
        f"{'; '.join(devices)}. *s to reach*: seconds of training until a periodic rollout first returned "
        f"{100 * target:.0f} % of the data's return, median over seeds, - where one of them never did."
    )
    return Table("Returns, time and memory", columns, tuple(rows), note)


def _small(group: Group) -> bool:
    return abs(group.records[0].last_return) < 10


def _seconds(group: Group, target: float) -> str:
    reached = []
    for record, curve in zip(group.records, group.curves, strict=True):
        goal = record.behavior_return - (1 - target) * abs(record.behavior_return)
        reached.append(next((point.seconds for point in curve if point.return_mean >= goal), None))
    known = [seconds for seconds in reached if seconds is not None]
    return f"{np.median(known):.0f}" if len(known) == len(reached) and known else "-"


def commands(groups: Sequence[Group]) -> Table:
    """What reproduces each row of the tables."""
    rows = []
    for group in sorted(groups, key=lambda group: (group.environment, group.dataset)):
        seeds = ",".join(str(record.seed) for record in group.records)
        command = group.records[0].command.replace(f"seed={group.records[0].seed}", f"seed={seeds}")
        several = command.replace("train.py", "train.py -m", 1) if group.n_seeds > 1 else command
        revisions = ", ".join(sorted({record.git_revision[:7] or "-" for record in group.records}))
        rows.append((group.dataset, group.label, revisions, several))
    return Table("What reproduces each row", ("dataset", "method", "revision", "command"), tuple(rows))


def aggregates(groups: Sequence[Group], against: str | None, seed: int) -> Iterator[Table]:
    """Over the tasks that several methods have in common: IQM with intervals, and probabilities of improvement."""
    for kind, scored in by_kind(groups).items():
        tasks = over_runs.common_tasks(scored)
        if len(scored) < 2 or not tasks:
            continue
        told = {label: over_runs.restricted(of_tasks, tasks) for label, of_tasks in scored.items()}
        yield _interquartile_means(kind, told, tasks, seed)
        yield _improvements(kind, told, against if against in told else next(iter(told)), seed)


def by_kind(groups: Sequence[Group]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """`{kind of score: {method: {task: [seeds]}}}`, methods with the largest mean score first."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for kind in dict.fromkeys(group.kind for group in groups):
        alike = [group for group in groups if group.kind == kind]
        most = _largest_common([{g.dataset for g in alike if g.label == label} for label in labels(alike)])
        found[kind] = {
            label: {group.dataset: group.scores() for group in alike if group.label == label}
            for label in labels(alike)
            if most <= {group.dataset for group in alike if group.label == label}
        }
    return found


def _largest_common(sets: Sequence[set[str]]) -> set[str]:
    """The datasets that most methods share: those which at least half of the methods have."""
    every = sorted(set().union(*sets))
    return {name for name in every if 2 * sum(name in one for one in sets) >= len(sets)}


def _interquartile_means(kind: str, told: dict[str, dict[str, np.ndarray]], tasks: list[str], seed: int) -> Table:
    rows = []
    for label, of_tasks in told.items():
        between = _interval(over_runs.interquartile_mean, [of_tasks], seed, digits=1)
        middle = f"{over_runs.interquartile_mean(of_tasks):.1f}"
        rows.append((label, middle, between, str(sum(map(len, of_tasks.values())))))
    note = (
        f"Over {', '.join(tasks)}. Interquartile mean of all runs (Agarwal et al., 2021), 95 % stratified bootstrap "
        "over seeds."
    )
    return Table(f"Interquartile mean of the {kind}", ("method", "IQM", "95 % interval", "runs"), tuple(rows), note)


def _interval(statistic: Callable[..., float], scores: Sequence[dict[str, np.ndarray]], seed: int, digits: int) -> str:
    """`12.3 to 45.6`; one seed of a task says nothing about others."""
    if min(len(values) for one in scores for values in one.values()) < 2:
        return "- (one seed)"
    low, high = over_runs.interval(statistic, scores, REPETITIONS, np.random.default_rng(seed))
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _improvements(kind: str, told: dict[str, dict[str, np.ndarray]], against: str, seed: int) -> Table:
    rows = []
    for label, of_tasks in told.items():
        if label != against:
            pair = [told[against], of_tasks]
            value = over_runs.probability_of_improvement(*pair)
            rows.append((label, f"{value:.2f}", _interval(over_runs.probability_of_improvement, pair, seed, digits=2)))
    note = (
        f"How likely a run of {against} scores more than one of the other method on the same task (ties count a half), "
        "mean over tasks; 95 % stratified bootstrap."
    )
    title = f"Probability that {against} scores more, {kind}"
    return Table(title, ("than", "probability", "95 % interval"), tuple(rows), note)


def flat(groups: Sequence[Group]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the numbers in full, a row a run."""
    names = ["environment", "dataset", "method", "algorithm", "seed", "score_kind", "last_score", "best_score"]
    fields = ["last_return", "last_win_rate", "best_return", "steps", "wall_seconds", "peak_memory_mb", "decision_ms"]
    rows: list[list[object]] = []
    for group in groups:
        for record in group.records:
            told = [group.environment, group.dataset, group.label, group.algorithm, record.seed, group.kind]
            measured = [score_of(record), score_of(record, "best"), *(getattr(record, name) for name in fields)]
            rows.append(["" if value is None else value for value in [*told, *measured, record.command]])
    return [*names, *fields, "command"], rows


def curve_of(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[P]` and scores `[seeds, P]` of the rollouts that all of a group's runs have."""
    told = [
        {point.step: point_score(record, point) for point in curve}
        for record, curve in zip(group.records, group.curves, strict=True)
    ]
    steps = sorted(set.intersection(*(set(one) for one in told))) if told else []
    return np.array(steps), np.array([[one[step] for step in steps] for one in told])
