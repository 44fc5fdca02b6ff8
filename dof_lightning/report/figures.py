"""What a report says in pictures: matplotlib figures as SVG text."""

import hashlib
import io
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dof_lightning.report.aggregates import Comparison
from dof_lightning.report.gathering import Group, score_of
from dof_lightning.report.statistics import Estimate, performance_profile
from dof_lightning.report.tables import curve_of, labels

_LINES = ("-", "--", ":", "-.")  # of the first, second, ... round of colours
_COLORS = ("#1f77b4", "#d95f02", "#2a9d5c", "#c03a2b", "#7b5ea7", "#8c6d46", "#d66ba0", "#6b7280", "#a8a13a", "#2aa5b8")


Styles = Mapping[str, dict[str, Any]]


def _styles(groups: Sequence[Group]) -> Styles:
    """How a method looks in every figure, matplotlib's `color` and `linestyle`: no two methods alike."""
    looks = ({"color": color, "linestyle": line} for line in itertools.cycle(_LINES) for color in _COLORS)
    return dict(zip(labels(groups), looks, strict=False))


@dataclass(frozen=True)
class Picture:
    """A figure of matplotlib's with the name of its file, the title above it and the caption below."""

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """As text that stands in an HTML page; the same figure gives the same text."""
        buffer = io.StringIO()
        import matplotlib as mpl

        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def pictures(groups: Sequence[Group], compared: Sequence[Comparison]) -> Iterator[Picture]:
    """All figures of a report: what is told over several tasks first, then learning curves."""
    styles = _styles(groups)
    for comparison in compared:
        yield _interquartile_means(comparison, styles)
        yield _profiles(comparison, styles)
        yield _improvements(comparison, styles)
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        if any(len(curve_of(group)[0]) for group in here):
            yield _curves(dataset, here, styles)


_NO_INTERVAL = "without an interval where there is one seed of a task"


def _interquartile_means(comparison: Comparison, styles: Styles) -> Picture:
    kind = comparison.kind
    figure, axes = _intervals(comparison.middles, styles)
    axes.set_xlabel(f"interquartile mean of the {kind}")
    caption = (
        f"Interquartile means with 95 % intervals of the stratified bootstrap, over {', '.join(comparison.tasks)}; "
        f"{_NO_INTERVAL}.{comparison.of_means}"
    )
    return Picture(name=f"iqm_{_slug(kind)}", title=f"Interquartile means, {kind}", caption=caption, figure=figure)


def _profiles(comparison: Comparison, styles: Styles) -> Picture:
    kind, told = comparison.kind, comparison.scores
    figure, axes = _figure(height=_height(told))
    everything = np.concatenate([values for of_tasks in told.values() for values in of_tasks.values()])
    thresholds = np.linspace(everything.min() - 1, everything.max() + 1, 300)
    for label, of_tasks in told.items():
        axes.step(thresholds, performance_profile(of_tasks, thresholds), label=_shown(label), **styles[label])
    axes.set_xlabel(f"{kind} τ")
    axes.set_ylabel("share of runs above τ")
    _legend(axes)
    caption = (
        "Performance profiles: the share of runs, mean over tasks, that score more than τ; further right is more."
        f"{comparison.reservations}"
    )
    return Picture(name=f"profile_{_slug(kind)}", title=f"Performance profiles, {kind}", caption=caption, figure=figure)


def _improvements(comparison: Comparison, styles: Styles) -> Picture:
    kind, first = comparison.kind, comparison.first
    figure, axes = _intervals(comparison.improvements, styles)
    axes.axvline(0.5, color="grey", linestyle=(0, (1, 1)))
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P({_shown(first)} scores more than …), {kind}")
    caption = (
        f"Probabilities of improvement of {first}, mean over tasks, with 95 % intervals of the stratified bootstrap; "
        f"{_NO_INTERVAL}.{comparison.reservations}"
    )
    title = f"Probabilities of improvement, {kind}"
    return Picture(name=f"improvement_{_slug(kind)}", title=title, caption=caption, figure=figure)


def _curves(dataset: str, groups: Sequence[Group], styles: Styles) -> Picture:
    figure, axes = _figure(height=_height(groups))
    for label in labels(groups):
        group = next(group for group in groups if group.label == label)
        steps, scores = curve_of(group)
        if len(steps):
            axes.plot(steps, scores.mean(0), label=_shown(f"{label} ({group.n_seeds})"), marker=".", **styles[label])
            axes.fill_between(
                steps, scores.min(0), scores.max(0), color=styles[label]["color"], alpha=0.15, linewidth=0
            )
    axes.axhline(score_of(groups[0].records[0], "behavior"), color="grey", linestyle=(0, (1, 1)), label="the data")
    axes.set_xlabel("updates")
    axes.set_ylabel(groups[0].kind)
    _legend(axes)
    caption = (
        "Periodic rollouts while training, mean over seeds (their number in brackets), band from least to most; on the "
        "selection episodes, fewer than those of the tables."
    )
    title = f"Learning curves, {dataset}"
    return Picture(name=f"curves_{_file_name(dataset)}", title=title, caption=caption, figure=figure)


def _intervals(told: dict[str, Estimate], styles: Styles) -> tuple[Figure, Axes]:
    """A bar a method, the first on top: its estimate as a line in its interval."""
    figure, axes = _figure(height=0.8 + 0.35 * len(told))
    rows = list(reversed(told.items()))
    for row, (label, estimate) in enumerate(rows):
        if estimate.interval is not None:
            low, high = estimate.interval
            axes.barh(row, high - low, left=low, height=0.5, color=styles[label]["color"], alpha=0.6)
        axes.plot([estimate.value] * 2, [row - 0.3, row + 0.3], color="black")
    axes.set_yticks(range(len(rows)), [_shown(label) for label, _ in rows])
    return figure, axes


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.0, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _height(lines: Collection[object]) -> float:
    """Inches that hold a line of the legend each."""
    return max(3.2, 0.6 + 0.2 * len(lines))


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")


def _shown(name: str) -> str:
    """What matplotlib shows as it is: no formula, and not hidden from legends for an underscore at its beginning."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _file_name(name: str) -> str:
    """A name that lies in its folder wherever it is written, and is no other's."""
    slug = _slug(name)
    return slug if slug == name else f"{slug}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text).strip("_")
