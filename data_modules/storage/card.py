"""A dataset's card: its description in sections of facts and tables, also as Markdown beside its shards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.storage.manifest import DatasetManifest
from dof_lightning.files import text
from dof_lightning.spec import SCORE_TITLES, AgentSpec, DimensionStatistics

FILE_NAME = "README.md"

_BARS = " ▁▂▃▄▅▆▇█"
_HISTOGRAM_BINS = 48
_RANGES = ("agent", "minimum", "maximum", "largest |mean|", "std (smallest to largest)")


@dataclass(frozen=True)
class Section:
    """One part of a card.

    Attributes:
        title: empty for the first one.
        facts: names and values, if the section has facts.
        lines: text, if it has lines.
        header, rows: the table, if it has one.
    """

    title: str
    facts: Mapping[str, str] | None = None
    lines: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def sections(manifest: DatasetManifest) -> Iterator[Section]:
    """All sections of a card, in order."""
    spec = manifest.spec
    yield Section("", _identity(manifest))
    yield Section("behaviour", {name: text(value, digits=4) for name, value in manifest.behavior.items()})
    yield Section("returns", lines=tuple(_returns(manifest)))
    agents = spec.environment.agents
    observed = {agent.name: agent.observation_dim for agent in agents}
    yield _ranges("observations, all dimensions of an agent", observed, spec.statistics.observations)
    if spec.statistics.actions is not None:
        acted = {agent.name: agent.action_dim for agent in agents}
        yield _ranges("actions, all dimensions of an agent", acted, spec.statistics.actions)
    yield Section("recipe", dict(_flat(spec.recipe)))


def to_markdown(manifest: DatasetManifest) -> str:
    """The card as Markdown; the same manifest gives the same text, wherever its folder is."""
    parts = [f"# {manifest.spec.name}\n"]
    for section in sections(manifest):
        parts.append(f"\n## {section.title}\n" if section.title else "")
        parts.append(_table(("fact", "value"), tuple((section.facts or {}).items())))
        parts.append(_table(section.header, section.rows))
        parts.extend(f"\n{line}\n" for line in section.lines)
    parts.append("\nWritten by dof-lightning; `dof data verify <this folder>` recomputes every hash.\n")
    return "".join(parts)


def write_card(folder: Path, manifest: DatasetManifest) -> None:
    """Writes the card into a dataset's folder."""
    (folder / FILE_NAME).write_text(to_markdown(manifest), encoding="utf-8")


def histogram(samples: np.ndarray, bins: int = _HISTOGRAM_BINS) -> str:
    """A one-line bar chart of `samples` `[n]` from their minimum to their maximum."""
    counts, _ = np.histogram(samples, bins=bins, range=histogram_range(samples))
    heights = np.ceil(counts / max(counts.max(), 1) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def histogram_range(samples: np.ndarray) -> tuple[float, float]:
    """Minimum and maximum, moved apart if all samples are the same up to rounding."""
    low, high = float(samples.min()), float(samples.max())
    least = 1e-4 * max(1.0, abs(low), abs(high))
    return (low, high) if high - low >= least else (low - least, high + least)


def size(n_bytes: int) -> str:
    """A size in bytes, in MB for display."""
    return f"{n_bytes / 1e6:,.1f} MB"


def _identity(manifest: DatasetManifest) -> dict[str, str]:
    spec, terminated = manifest.spec, manifest.n_terminated
    return {
        "fingerprint": spec.fingerprint,
        "environment": f"{spec.environment.name} ({spec.environment.fingerprint})",
        "agents": _agents(spec.environment.agents),
        "not learned": _extra_agents(manifest),
        "actions": spec.action_kind,
        "global state": f"{spec.state_dim} dimensions" if spec.state_dim else "none",
        "episodes": f"{manifest.n_episodes:,} of at most {spec.horizon} steps (longest {manifest.longest})",
        "steps": f"{manifest.n_steps:,}, as many training or held-out windows",
        "ends": f"{terminated:,} terminated, {manifest.n_episodes - terminated:,} cut by a time limit (truncated)",
        "arrays": ", ".join(sorted(manifest.members)),
        "shards": f"{len(manifest.shards)}, {size(manifest.n_bytes)}",
    }


def _returns(manifest: DatasetManifest) -> Iterator[str]:
    knots, behavior = manifest.return_knots, manifest.behavior
    low, median, high = np.quantile(knots, (0.0, 0.5, 1.0))
    mean = float(behavior["return_mean"])
    yield f"{mean:.2f} ± {behavior['return_std']:.2f} over all episodes (sum of rewards, mean over agents)"
    yield f"{low:.1f} {histogram(knots)} {high:.1f}   median {median:.1f}"
    for name, reference in manifest.spec.environment.references.items():
        yield f"{SCORE_TITLES[name]} {reference.normalize(mean):.1f} ({reference.source})"


def _ranges(title: str, dimensions: Mapping[str, int], statistics: DimensionStatistics) -> Section:
    rows = []
    for i, (agent, count) in enumerate(dimensions.items()):
        mean, std = np.abs(statistics.mean[i, :count]), statistics.std[i, :count]
        low, high = statistics.minimum[i, :count].min(), statistics.maximum[i, :count].max()
        rows.append(
            (agent, f"{low:.3f}", f"{high:.3f}", f"{mean.max():.3f}", f"{std.min():.3f} to {std.max():.3f}"),
        )
    return Section(title, header=_RANGES, rows=tuple(rows))


def _agents(agents: tuple[AgentSpec, ...]) -> str:
    kinds = {(agent.observation_dim, agent.action_dim) for agent in agents}
    if len(kinds) == 1:
        (observation, action), names = kinds.pop(), ", ".join(agent.name for agent in agents)
        return f"{len(agents)} ({names}), each {observation} observations and {action} actions"
    return ", ".join(f"{agent.name} ({agent.observation_dim}, {agent.action_dim})" for agent in agents)


def _extra_agents(manifest: DatasetManifest) -> str:
    seen = manifest.members.get("extra_observations")
    if seen is None:
        return "no agents beside the learned ones"
    return f"{seen.shape[0]} (e.g. prey), with {seen.shape[1]} observations each"


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A recipe's entries by dotted key."""
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", text(value, digits=4)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = (header, ["---"] * len(header), *rows)
    return "\n" + "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
