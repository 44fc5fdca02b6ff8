"""The tables of a report."""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dof_lightning.files import over_seeds
from dof_lightning.report.gathering import Group, point_score, score_of
from dof_lightning.report.published import EITHER, OURS, SOURCE, Published, published
from dof_lightning.report.store import Record

LEAST_SEEDS = 5  # least number of seeds for which a report may be read as a ranking


@dataclass(frozen=True)
class Table:
    """A table of texts, with a title above it and a note, which may be empty, below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def labels(groups: Sequence[Group]) -> list[str]:
    """The methods, ordered by their distance above the mean of all methods on the same dataset.

    They are not ordered by their mean scores: a method that ran on the easy datasets only would lead.
    """
    on: dict[str, list[float]] = {}
    for group in groups:
        on.setdefault(group.dataset, []).append(float(group.scores().mean()))
    above: dict[str, list[float]] = {}
    for group in groups:
        above.setdefault(group.label, []).append(group.scores().mean() - np.mean(on[group.dataset]))
    return sorted(above, key=lambda name: -statistics.fmean(above[name]))


def scores(groups: Sequence[Group], environment: str) -> Table:
    """The table of scores in one environment: a row per method, two columns per dataset."""
    here, sets, by_method = _of_environment(groups, environment)
    kinds = dict.fromkeys(group.kind for group in here)
    columns = ["method", *(column for name in sets for column in (f"{_quality(name, environment)}, last", "best"))]
    rows = [["the data's behaviour", *(cell for name in sets for cell in (_behavior(here, name), ""))]]
    for label in labels(here):
        rows.append([label, *(cell for name in sets for cell in _cells(by_method.get((label, name))))])
    title = f"{environment}: {', '.join(kinds)}"
    return Table(title=title, columns=tuple(columns), rows=tuple(map(tuple, rows)), note=_note(here))


def published_scores(groups: Sequence[Group], environment: str) -> Iterator[Table]:
    """Yields separate tables of published numbers: one for the same world and one for another, if there are any."""
    here, sets, by_method = _of_environment(groups, environment)
    numbers = {key: number for key, group in by_method.items() if (number := published(group)) is not None}
    for same_world, where in ((True, "published, of other data"), (False, "published in another world")):
        of_world = {key: number for key, number in numbers.items() if number.same_world == same_world}
        datasets = [name for name in sets if any(dataset == name for _, dataset in of_world)]
        methods = [label for label in labels(here) if any(method == label for method, _ in of_world)]
        rows = [[label, *(_number(of_world.get((label, name))) for name in datasets)] for label in methods]
        if rows:
            yield Table(
                title=f"{environment}: {where}",
                columns=("method", *(_quality(name, environment) for name in datasets)),
                rows=tuple(map(tuple, rows)),
                note=_source(of_world, same_world),
            )


def _of_environment(
    groups: Sequence[Group], environment: str
) -> tuple[list[Group], list[str], dict[tuple[str, str], Group]]:
    """The groups of an environment, their datasets, and each group by method and dataset."""
    here = [group for group in groups if group.environment == environment]
    return here, list(dict.fromkeys(group.dataset for group in here)), {(g.label, g.dataset): g for g in here}


def _quality(dataset: str, environment: str) -> str:
    return dataset.removeprefix(environment).strip("_").replace("_", " ") or dataset


def _behavior(groups: Sequence[Group], dataset: str) -> str:
    record = next(group.records[0] for group in groups if group.dataset == dataset)
    return f"{score_of(record, 'behavior'):.1f}"


def _cells(group: Group | None) -> list[str]:
    if group is None:
        return ["-", "-"]
    return [f"{over_seeds(group.scores())} ({group.n_seeds}){caveat(group)}", over_seeds(group.scores("best"))]


def caveat(group: Group) -> str:
    """The caveat that accompanies every number of the group: empty, or in brackets after a space."""
    first = group.records[0]
    notes = ["centralized"] if first.execution == "centralized" else []
    notes += [f"shared seed of {first.shared_seeds}"] if first.shared_seeds else []
    alone = first.execution == "decentralized"
    notes += ["stopped early"] if any(record.stopped_early for record in group.records) else []
    several = len({record.settings_hash for record in group.records})
    notes += [f"of {several} settings"] if several > 1 else []
    notes += ["NOT CERTIFIED"] if alone and not all(record.certified for record in group.records) else []
    return f" [{', '.join(notes)}]" if notes else ""


def _number(number: Published | None) -> str:
    if number is None:
        return "-"
    unit = "" if number.metric == "normalized score" else f" ({number.metric})"
    return f"{number.mean:.1f} ± {number.std:.1f}{unit}"


def _note(groups: Sequence[Group]) -> str:
    notes = ["Mean ± standard deviation over seeds, their number in brackets; last checkpoint on the report episodes."]
    notes += ["*best* is the checkpoint that was best on other episodes, on the same report episodes."]
    if min(group.n_seeds for group in groups) < LEAST_SEEDS:
        notes.append(f"Fewer than {LEAST_SEEDS} seeds in places: a sanity check, from which no ranking follows.")
    notes += [text_on_budgets] if (text_on_budgets := budgets(groups)) else []
    return " ".join(notes)


def _source(numbers: Mapping[tuple[str, str], Published], same_world: bool) -> str:
    """Text on the origin of published numbers, and the numbers that they must not be compared with."""
    worlds = ", ".join(sorted({number.world for number in numbers.values()}))
    if same_world:
        notes = [f"{SOURCE}; the same task, but data of other behaviours, so no comparison of methods."]
    else:
        notes = [f"{SOURCE}, {worlds}: another opponent or another game, so no comparison with the scores above."]
    methods = {label for label, _ in numbers}  # of an algorithm as it is: a variant has no published number
    if methods & set(EITHER):
        notes.append("MADIFF's published row does not say whether its agents act alone.")
    if methods >= set(OURS):
        notes.append(f"The published row of DoF is one: {' and '.join(OURS)} both have it.")
    return " ".join(notes)


def budgets(groups: Sequence[Group]) -> str:
    """Text on the numbers of updates, if methods or datasets differ in them; else empty."""
    datasets: dict[str, list[str]] = {}
    for dataset in dict.fromkeys(group.dataset for group in groups):
        datasets.setdefault(_budgets_on([group for group in groups if group.dataset == dataset]), []).append(dataset)
    if len(datasets) > 1:
        return "Updates: " + "; ".join(f"{text} on {', '.join(names)}" for text, names in datasets.items()) + "."
    text = next(iter(datasets), "")
    return f"Updates: {text}." if "but" in text or "plateau" in text else ""


def _budgets_on(groups: Sequence[Group]) -> str:
    """Text on the number of updates that most methods had on a dataset, and the methods that had another number."""
    methods: dict[str, list[str]] = {}
    for group in sorted(groups, key=lambda group: group.records[0].budget_steps):
        first = group.records[0]
        budget = f"{first.budget_steps:,}" + (" or fewer, to the plateau of the score" if first.ends_at_plateau else "")
        methods.setdefault(budget, []).append(group.label)
    most = max(methods, key=lambda budget: len(methods[budget]))
    other_budgets = [f"{budget} of {', '.join(sorted(methods[budget]))}" for budget in methods if budget != most]
    return most + (f", but {' and '.join(other_budgets)}" if other_budgets else "")


def details(groups: Sequence[Group], target: float) -> Table:
    """The table of returns, wins, time and memory per method and dataset; `target`: share of the data's return."""
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
        digits = 2 if abs(group.records[0].last_return) < 10 else 1
        rows.append(
            (
                group.dataset,
                group.label,
                str(group.n_seeds),
                over_seeds([record.last_return for record in group.records], digits=digits),
                f"{np.mean(wins):.2f}" if (wins := group.values("last_win_rate")) else "-",
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
    return Table(title="Returns, time and memory", columns=columns, rows=tuple(rows), note=note)


def _seconds(group: Group, target: float) -> str:
    reached = []
    for record, curve in zip(group.records, group.curves, strict=True):
        goal = record.behavior_return - (1 - target) * abs(record.behavior_return)
        reached.append(next((point.seconds for point in curve if point.return_mean >= goal), None))
    known = [seconds for seconds in reached if seconds is not None]
    return f"{np.median(known):.0f}" if len(known) == len(reached) and known else "-"


_SEED = re.compile(r"(?<!\S)seed=\d+")  # the run's own seed, not another key that ends in `seed`


def _typed_alike(group: Group) -> list[list[Record]]:
    """A group's runs by overrides and their meaning, except the seed: a preset may mean something else later."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in group.records:
        found.setdefault((record.settings_hash, _SEED.sub("seed=", record.command)), []).append(record)
    return list(found.values())


def commands(groups: Sequence[Group]) -> Table:
    """The table of commands that reproduce each row: a line for each command that its runs were made with."""
    rows = []
    for group in sorted(groups, key=lambda group: (group.environment, group.dataset)):
        for records in _typed_alike(group):
            seeds = ",".join(str(record.seed) for record in records)
            command = _SEED.sub(f"seed={seeds}", records[0].command)
            several = command.replace("train.py", "train.py -m", 1) if len(records) > 1 else command
            revisions = ", ".join(sorted({_short(record.git_revision) for record in records}))
            rows.append((group.dataset, group.label, revisions, several))
    columns = ("dataset", "method", "revision", "command")
    return Table(title="What reproduces each row", columns=columns, rows=tuple(rows))


def _short(revision: str) -> str:
    """Shortens a revision to seven digits, and marks whether files differed from it."""
    commit, changed, _ = revision.partition("+")
    return (commit[:7] or "-") + (" with changes" if changed else "")


def flat(groups: Sequence[Group]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the numbers in full, one row per run."""
    names = ["environment", "dataset", "method", "algorithm", "seed", "score_kind", "last_score", "best_score"]
    fields = ["last_return", "last_win_rate", "best_return", "steps", "wall_seconds", "peak_memory_mb", "decision_ms"]
    rows: list[list[object]] = []
    for group in groups:
        for record in group.records:
            run = [group.environment, group.dataset, group.label, group.algorithm, record.seed, group.kind]
            measured = [score_of(record), score_of(record, "best"), *(getattr(record, name) for name in fields)]
            rows.append(["" if value is None else value for value in [*run, *measured, record.command]])
    return [*names, *fields, "command"], rows


def curve_of(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[P]` and scores `[seeds, P]` of the rollouts that all of a group's runs have.

    A run that its plateau ended keeps its last score from there on.
    """
    curves = [
        {point.step: point_score(record, point) for point in curve}
        for record, curve in zip(group.records, group.curves, strict=True)
    ]
    is_over = [record.ends_at_plateau and not record.stopped_early for record in group.records]

    def in_all(step: int) -> bool:
        runs = zip(curves, is_over, strict=True)
        return all(step in curve or (over and step > max(curve, default=step)) for curve, over in runs)

    steps = sorted(filter(in_all, {step for curve in curves for step in curve}))
    scores = [[curve[min(step, max(curve))] for step in steps] for curve in curves]
    return np.array(steps), np.array(scores)
