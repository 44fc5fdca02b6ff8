"""What `dof data list` and `dof data show` print: tables of datasets and the card of one."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_modules.manifest import FILE_NAME, DatasetManifest, read_manifest
from dof_lightning.errors import UserError
from dof_lightning.spec import SCORE_TITLES, AgentSpec, DimensionStatistics

_BARS = " ▁▂▃▄▅▆▇█"
_HISTOGRAM_BINS = 48


def find_datasets(root: Path) -> list[Path]:
    """Folders below `root` (two levels at most) that hold a `dataset.json`, in alphabetical order."""
    files = (file for depth in ("*", "*/*") for file in Path(root).glob(f"{depth}/{FILE_NAME}"))
    return sorted(file.parent for file in files if not file.parent.name.startswith("."))


def list_datasets(root: Path) -> RenderableType:
    """One line for each dataset below `root`; damaged ones say what is wrong."""
    folders = find_datasets(root)
    if not folders:
        return Text(f"no datasets in {root}: build one with `dof data build`, or correct data.root")
    table = Table("dataset", "environment", "episodes", "steps", "return", "size", "fingerprint", title=str(root))
    for folder in folders:
        try:
            table.add_row(*_summary(read_manifest(folder)))
        except UserError as error:
            table.add_row(folder.name, Text(str(error), style="red"))
    return table


def describe(path: Path | str) -> RenderableType:
    """A dataset's card.

    Raises:
        UserError: see `read_manifest`.
    """
    manifest = read_manifest(path)
    spec = manifest.spec
    facts = _facts(
        {
            "folder": manifest.location,
            "fingerprint": spec.fingerprint,
            "environment": f"{spec.environment.name} ({spec.environment.fingerprint})",
            "agents": _agents(spec.environment.agents),
            "actions": spec.action_kind,
            "global state": f"{spec.state_dim} dimensions" if spec.state_dim else "none",
            "episodes": f"{manifest.n_episodes:,} of at most {spec.horizon} steps (longest {manifest.longest})",
            "steps": f"{manifest.n_steps:,}, as many training or held-out windows",
            "ends": _ends(manifest),
            "arrays": ", ".join(sorted(manifest.members)),
            "shards": f"{len(manifest.shards)}, {_size(manifest.n_bytes)}",
        }
    )
    agents = spec.environment.agents
    parts: list[RenderableType] = [
        facts,
        _titled("behaviour", _facts(dict(manifest.behavior))),
        _titled("returns", _returns(manifest)),
    ]
    observed = {agent.name: agent.observation_dim for agent in agents}
    parts.append(_titled("observations, all dimensions of an agent", _ranges(observed, spec.statistics.observations)))
    if spec.statistics.actions is not None:
        acted = {agent.name: agent.action_dim for agent in agents}
        parts.append(_titled("actions, all dimensions of an agent", _ranges(acted, spec.statistics.actions)))
    return Panel(Group(*parts), title=spec.name, title_align="left")


def histogram(samples: np.ndarray, bins: int = _HISTOGRAM_BINS) -> str:
    """A one-line bar chart of `samples` `[n]` from their minimum to their maximum."""
    counts, _ = np.histogram(samples, bins=bins)
    heights = np.ceil(counts / max(counts.max(), 1) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def _summary(manifest: DatasetManifest) -> Iterable[str]:
    spec, behavior = manifest.spec, manifest.behavior
    returns = f"{behavior['return_mean']:.2f} ± {behavior['return_std']:.2f}"
    counts = (f"{manifest.n_episodes:,}", f"{manifest.n_steps:,}")
    return spec.name, spec.environment.name, *counts, returns, _size(manifest.n_bytes), spec.fingerprint


def _returns(manifest: DatasetManifest) -> RenderableType:
    knots, behavior = manifest.return_knots, manifest.behavior
    low, median, high = np.quantile(knots, (0.0, 0.5, 1.0))
    mean = float(behavior["return_mean"])
    lines = [
        f"{mean:.2f} ± {behavior['return_std']:.2f} over all episodes (sum of rewards, mean over agents)",
        f"{low:.1f} {histogram(knots)} {high:.1f}   median {median:.1f}",
    ]
    for name, reference in manifest.spec.environment.references.items():
        lines.append(f"{SCORE_TITLES[name]} {reference.normalize(mean):.1f} ({reference.source})")
    return Text("\n".join(lines))


def _ranges(dimensions: dict[str, int], statistics: DimensionStatistics) -> RenderableType:
    table = Table("agent", "minimum", "maximum", "largest |mean|", "std (smallest to largest)", box=None)
    for i, (agent, count) in enumerate(dimensions.items()):
        mean, std = np.abs(statistics.mean[i, :count]), statistics.std[i, :count]
        low, high = statistics.minimum[i, :count].min(), statistics.maximum[i, :count].max()
        numbers = f"{low:.3f}", f"{high:.3f}", f"{mean.max():.3f}", f"{std.min():.3f} to {std.max():.3f}"
        table.add_row(agent, *numbers)
    return table


def _ends(manifest: DatasetManifest) -> str:
    terminated, total = manifest.n_terminated, manifest.n_episodes
    return f"{terminated:,} terminated, {total - terminated:,} cut by a time limit (truncated)"


def _agents(agents: tuple[AgentSpec, ...]) -> str:
    kinds = {(agent.observation_dim, agent.action_dim) for agent in agents}
    if len(kinds) == 1:
        (observation, action), names = kinds.pop(), ", ".join(agent.name for agent in agents)
        return f"{len(agents)} ({names}), each {observation} observations and {action} actions"
    return ", ".join(f"{agent.name} ({agent.observation_dim}, {agent.action_dim})" for agent in agents)


def _facts(values: dict[str, object]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in values.items():
        table.add_row(Text(name, style="bold"), Text(f"{value:.4g}" if isinstance(value, float) else str(value)))
    return table


def _titled(title: str, body: RenderableType) -> Group:
    return Group("", Text(title, style="bold underline"), body)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
