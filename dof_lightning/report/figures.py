"""The figures of a report: matplotlib figures as SVG text."""

import hashlib
import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dof_lightning.report.aggregates import Comparison
from dof_lightning.report.gathering import Group, score_of
from dof_lightning.report.published import OURS
from dof_lightning.report.statistics import Estimate, performance_profile
from dof_lightning.report.summary import Standing
from dof_lightning.report.tables import LEAST_SEEDS, budgets, curve_of, labels

# Every colour has a contrast of 3 against a white page and against a dark one.
_OUR_COLORS = ("#2f6fed", "#e8590c")
_COLORS = ("#1f9d55", "#d6336c", "#9256d9", "#a9743a", "#1296ad", "#7a828c", "#8a8f1f", "#d0342c")
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))  # per round of colours
_WIDTH = 4.8  # width of a panel in inches: one on a phone, three side by side on a desk
_SMALL = 8.5  # font size in points
_LABEL_LETTERS = 36  # letters in a line of a label beside a panel, about half its width

Styles = Mapping[str, dict[str, Any]]


def method_styles(groups: Sequence[Group]) -> Styles:
    """The style of every method in all figures, as keywords of matplotlib's lines: all different, DoF on top.

    DoF has the same colours in every report, and the other methods in every report of the same methods. Two of them
    share a colour, with other lines, only if they have no dataset in common or there are more methods than colours.
    """
    thick = {"linestyle": "-", "linewidth": 2.8, "zorder": 3.0}
    styles: dict[str, dict[str, Any]] = {
        name: {"color": color} | thick for name, color in zip(OURS, _OUR_COLORS, strict=True)
    }
    on = {label: {group.dataset for group in groups if group.label == label} for label in labels(groups)}
    used: list[tuple[str, set[str]]] = []  # colours, and the datasets they are used on
    for label in sorted(on.keys() - set(OURS)):
        times = {color: sum(other == color for other, _ in used) for color in _COLORS}
        meets = {color: any(other == color and on[label] & there for other, there in used) for color in _COLORS}
        color = min(_COLORS, key=lambda color: (meets[color], times[color]))
        styles[label] = {"color": color, "linestyle": _LINES[times[color] % len(_LINES)]}
        styles[label] |= {"linewidth": 1.3, "zorder": 2.0}
        used.append((color, on[label]))
    return styles


@dataclass(frozen=True)
class Panel:
    """A matplotlib figure with the name of its file and a description of its content."""

    name: str
    title: str
    figure: Figure

    def svg(self) -> str:
        """A separate file, on a white ground; the same figure gives the same text."""
        return self._drawn(facecolor="white")

    def inline(self) -> str:
        """An element of a page: without background, with black replaced by the page's colour, and unique names."""
        drawn = self._drawn(facecolor="none").replace(": #000000", ": currentColor")
        return re.sub(r'<g id="[^"]*">', "<g>", drawn)

    def _drawn(self, facecolor: str) -> str:
        import matplotlib as mpl

        buffer = io.StringIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format="svg", metadata=unsaid, facecolor=facecolor)
        return buffer.getvalue()[buffer.getvalue().index("<svg") :]


@dataclass(frozen=True)
class Picture:
    """Panels that belong together, with the title above them, and the caption and the description below."""

    title: str
    caption: str
    panels: tuple[Panel, ...]
    sentences: tuple[str, ...] = ()


def summary(standings: Sequence[Standing], styles: Styles) -> Picture:
    """Draws a panel and writes a sentence per dataset: every method with its interval, the highest on top."""
    updates = budgets([group for standing in standings for group in standing.groups.values()])
    return Picture(
        title="Summary",
        caption=(
            "Interquartile means over seeds (of fewer than four seeds the mean) of the last checkpoint on the report "
            "episodes, with 95 % bootstrap intervals: seeds drawn anew, 10,000 times. With "
            f"fewer than {LEAST_SEEDS} seeds an interval is too narrow, as it cannot reach beyond the runs. The dashed "
            f"line is the score of the data.{f' {updates}' if updates else ''}"
        ),
        panels=tuple(_standing(standing, styles) for standing in standings),
        sentences=tuple(standing.sentence for standing in standings),
    )


def _standing(standing: Standing, styles: Styles) -> Panel:
    named = {label: standing.named(label) for label in standing.middles}
    figure, axes = _intervals(standing.middles, styles, digits=1, named=named)
    axes.axvline(standing.behavior, color="grey", linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlabel(standing.kind)
    axes.set_title(_shown(standing.dataset), loc="left", fontsize=10, fontweight="bold")
    name = f"summary_{_file_name(standing.dataset)}_{_slug(standing.kind)}"
    return Panel(name, f"{standing.dataset}, {standing.kind}", figure)


def pictures(groups: Sequence[Group], compared: Sequence[Comparison], styles: Styles) -> Iterator[Picture]:
    """Yields the figures below the summary: first those over several tasks, then learning curves."""
    for comparison in compared:
        yield _over_tasks(comparison, styles)
    curves = tuple(_curves(groups, styles))
    if curves:
        caption = (
            "Periodic rollouts while training, mean over seeds (their number in brackets), band from least to most; on "
            "the selection episodes, fewer than those of the tables. A run that ended at its plateau counts with its "
            "last score from there on; where time ended a run, the curve ends."
        )
        yield Picture(title="Learning curves", caption=caption, panels=curves)


def _over_tasks(comparison: Comparison, styles: Styles) -> Picture:
    caption = (
        f"Over {', '.join(comparison.tasks)}. Interquartile means, and probabilities that {comparison.first} scores "
        "more than another method (mean over tasks), with 95 % intervals of the stratified bootstrap; without an "
        "interval if a task has one seed. Performance profiles: the share of runs, mean over tasks, that "
        f"score more than τ; further right is more.{comparison.of_means}"
    )
    return Picture(
        title=f"Over several tasks: {comparison.kind}",
        caption=caption,
        panels=(
            _interquartile_means(comparison, styles),
            _profiles(comparison, styles),
            _improvements(comparison, styles),
        ),
    )


def _interquartile_means(comparison: Comparison, styles: Styles) -> Panel:
    kind = comparison.kind
    figure, axes = _intervals(comparison.middles, styles, digits=1)
    axes.set_xlabel(f"interquartile mean of the {kind}")
    return Panel(name=f"iqm_{_slug(kind)}", title=f"Interquartile means, {kind}", figure=figure)


def _profiles(comparison: Comparison, styles: Styles) -> Panel:
    kind, scores = comparison.kind, comparison.scores
    figure, axes = _figure(height=2.7 + _legend_height(len(scores)))
    everything = np.concatenate([values for of_tasks in scores.values() for values in of_tasks.values()])
    thresholds = np.linspace(everything.min() - 1, everything.max() + 1, 300)
    for label, of_tasks in scores.items():
        axes.step(thresholds, performance_profile(of_tasks, thresholds), label=_shown(label), **styles[label])
    axes.margins(x=0)
    axes.set_xlabel(f"{kind} τ")
    axes.set_ylabel("share of runs above τ")
    _legend(figure)
    return Panel(name=f"profile_{_slug(kind)}", title=f"Performance profiles, {kind}", figure=figure)


def _improvements(comparison: Comparison, styles: Styles) -> Panel:
    kind, first = comparison.kind, comparison.first
    figure, axes = _intervals(comparison.improvements, styles, digits=2)
    axes.axvline(0.5, color="grey", linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P({_shown(first)} scores more than …)")
    title = f"Probabilities of improvement of {first}, {kind}"
    return Panel(name=f"improvement_{_slug(kind)}", title=title, figure=figure)


def _curves(groups: Sequence[Group], styles: Styles) -> Iterator[Panel]:
    """A panel per dataset with curves."""
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        if any(len(curve_of(group)[0]) for group in here):
            yield _curves_on(dataset, here, styles)


def _curves_on(dataset: str, groups: Sequence[Group], styles: Styles) -> Panel:
    figure, axes = _figure(height=2.7 + _legend_height(len(groups) + 1))
    for label in labels(groups):
        group = next(group for group in groups if group.label == label)
        steps, scores = curve_of(group)
        if len(steps):
            style = styles[label]
            axes.plot(steps, scores.mean(0), label=_shown(f"{label} ({group.n_seeds})"), marker=".", **style)
            band = {"color": style["color"], "zorder": style["zorder"] - 1}
            axes.fill_between(steps, scores.min(0), scores.max(0), alpha=0.12, linewidth=0, **band)
    behavior = score_of(groups[0].records[0], "behavior")
    axes.axhline(behavior, color="grey", linestyle=(0, (4, 2)), zorder=1, label="the data")
    axes.margins(x=0.01)
    axes.set_xlabel("updates")
    axes.set_ylabel(groups[0].kind)
    axes.set_title(_shown(dataset), loc="left", fontsize=10, fontweight="bold")
    _legend(figure)
    return Panel(name=f"curves_{_file_name(dataset)}", title=f"Learning curves, {dataset}", figure=figure)


def _intervals(
    estimates: Mapping[str, Estimate], styles: Styles, digits: int, named: Mapping[str, str] | None = None
) -> tuple[Figure, Axes]:
    """A bar per method, the first on top: its estimate as a line in its interval, and as a number beside it."""
    rows = list(estimates.items())[::-1]
    names = [_shown(textwrap.fill((named or {}).get(label, label), _LABEL_LETTERS)) for label, _ in rows]
    lines = max(name.count("\n") + 1 for name in names)
    figure, axes = _figure(height=0.8 + (0.1 + 0.14 * lines) * len(estimates))
    for row, (label, estimate) in enumerate(rows):
        if estimate.interval is not None:
            low, high = estimate.interval
            axes.barh(row, high - low, left=low, height=0.6, color=styles[label]["color"], alpha=0.65, zorder=2)
        axes.plot([estimate.value] * 2, [row - 0.36, row + 0.36], color="black", linewidth=1.6, zorder=3)
        number = f"{estimate.value:.{digits}f}"
        axes.annotate(number, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=_SMALL)
    axes.use_sticky_edges = False  # else bars would end at the edge of the picture
    axes.margins(x=0.04)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), names, fontsize=_SMALL)
    for (label, _), name in zip(rows, axes.get_yticklabels(), strict=True):
        name.set_fontweight("bold" if label in OURS else "normal")
    return figure, axes


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_SMALL)
    return figure, axes


_LEGEND_COLUMNS = 2


def _legend_height(entries: int) -> float:
    """Inches of a legend."""
    return 0.17 * -(-entries // _LEGEND_COLUMNS)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=8)


def _shown(name: str) -> str:
    """A name that matplotlib shows literally: no formula, and not left out of legends for a leading underscore."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _file_name(name: str) -> str:
    """A unique file name that cannot lead out of its folder on any system."""
    slug = _slug(name)
    return slug if slug == name else f"{slug}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text).strip("_")
