"""`dof data stats`: a dataset's numbers, and a picture of them."""

from pathlib import Path
from typing import Any

import numpy as np

from data_modules.storage.card import histogram_range
from data_modules.storage.manifest import DatasetManifest
from dof_lightning.spec import DimensionStatistics

_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def summarize(manifest: DatasetManifest) -> dict[str, Any]:
    """A dataset's numbers as plain values; nothing but the manifest is read."""
    spec, behavior, reference = manifest.spec, manifest.behavior, manifest.spec.environment.reference
    statistics = spec.statistics
    return {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "environment": spec.environment.name,
        "episodes": manifest.n_episodes,
        "steps": manifest.n_steps,
        "training_windows": manifest.n_training_windows,
        "bytes": manifest.n_bytes,
        "mean_length": manifest.n_steps / manifest.n_episodes,
        "longest": manifest.longest,
        "terminated": manifest.n_terminated,
        "return_mean": behavior["return_mean"],
        "return_std": behavior["return_std"],
        "return_percentiles": _percentiles(manifest.return_knots),
        "normalized_score": None if reference is None else reference.normalize(behavior["return_mean"]),
        "win_rate": behavior.get("win_rate"),
        "discount": spec.discount,
        "discounted_return_percentiles": _percentiles(statistics.discounted_return_knots),
        "observations": _dimensions(manifest, statistics.observations, "observation_dim"),
        "actions": None if statistics.actions is None else _dimensions(manifest, statistics.actions, "action_dim"),
    }


def plot(manifest: DatasetManifest, path: Path) -> None:
    """Draws the distributions of a dataset's returns, observations and actions as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    spec = manifest.spec
    panels = [("observations", spec.statistics.observations, "observation_dim")]
    panels += [("actions", spec.statistics.actions, "action_dim")] if spec.statistics.actions is not None else []
    figure = Figure(figsize=(5 * (2 + len(panels)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 + len(panels))
    _draw_returns(axes[0], manifest.return_knots, manifest.behavior["return_mean"], "return of an episode")
    discounted = spec.statistics.discounted_return_knots
    _draw_returns(axes[1], discounted, float(discounted.mean()), f"discounted by {spec.discount:g}")
    for ax, (title, statistics, size) in zip(axes[2:], panels, strict=True):
        _draw_dimensions(ax, manifest, statistics, size, title)
    figure.suptitle(f"{spec.name}: {manifest.n_episodes:,} episodes, {manifest.n_steps:,} steps ({spec.fingerprint})")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _percentiles(knots: np.ndarray) -> dict[str, float]:
    """Percentiles from evenly spaced quantiles `[Q]`."""
    values = np.quantile(knots, np.array(_PERCENTILES) / 100)
    return {str(percent): float(value) for percent, value in zip(_PERCENTILES, values, strict=True)}


def _dimensions(manifest: DatasetManifest, statistics: DimensionStatistics, size: str) -> dict[str, Any]:
    """Mean, deviation and range per agent and dimension."""
    names = ("mean", "std", "minimum", "maximum")
    return {
        agent.name: {name: getattr(statistics, name)[i, : getattr(agent, size)].tolist() for name in names}
        for i, agent in enumerate(manifest.spec.environment.agents)
    }


def _draw_returns(ax: Any, knots: np.ndarray, mean: float, title: str) -> None:
    ax.hist(knots, bins=60, range=histogram_range(knots), weights=np.full(len(knots), 100 / len(knots)), color="C0")
    ax.axvline(mean, color="C3", linewidth=1, label=f"mean {mean:.4g}")
    ax.set(title=title, xlabel="mean over agents", ylabel="% of the episodes")
    ax.legend(frameon=False)


def _draw_dimensions(
    ax: Any, manifest: DatasetManifest, statistics: DimensionStatistics, size: str, title: str
) -> None:
    """Draws the range, and the mean ± one deviation, of every agent's dimensions side by side."""
    agents = manifest.spec.environment.agents
    counts = [getattr(agent, size) for agent in agents]
    low, high, mean, std = (
        np.concatenate([getattr(statistics, name)[i, :count] for i, count in enumerate(counts)])
        for name in ("minimum", "maximum", "mean", "std")
    )
    place = np.arange(len(mean))
    ax.vlines(place, low, high, color="C7", linewidth=1, label="minimum to maximum")
    ax.errorbar(place, mean, yerr=std, fmt=".", color="C0", markersize=3, linewidth=1, label="mean ± std")
    for border in np.cumsum(counts)[:-1]:
        ax.axvline(border - 0.5, color="C3", linewidth=0.5)
    ax.set(title=f"{title} ({len(agents)} agents, one after the other)", xlabel="dimension")
    ax.legend(frameon=False)
