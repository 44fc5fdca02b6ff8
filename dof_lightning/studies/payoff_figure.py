"""Payoff matrices side by side, as heat maps with their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS = 4


def draw(tables: Mapping[str, Tensor], payoff: Tensor) -> Figure:
    """A heat map a table, all in the payoff's colours.

    Args:
        tables: `[A_1, A_2]` each, by title.
        payoff: the true one, whose range the colours span.
    """
    from matplotlib.figure import Figure

    down = -(-len(tables) // _ACROSS)
    figure = Figure(figsize=(2.7 * _ACROSS, 2.7 * down), layout="constrained")
    axes = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    for panel, (title, table) in zip(axes, tables.items(), strict=False):
        _draw_table(panel, title, table, float(payoff.min()), float(payoff.max()))
    for panel in axes[len(tables) :]:
        panel.set_axis_off()
    return figure


def _draw_table(panel: Any, title: str, table: Tensor, low: float, high: float) -> None:
    panel.imshow(table.numpy(), cmap="viridis", vmin=low, vmax=high)
    for row, values in enumerate(table.tolist()):
        for column, value in enumerate(values):
            bright = value > (low + high) / 2
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", color="black" if bright else "white")
    panel.set_title(title, fontsize=9)
    panel.set_xticks(range(table.shape[1]), [f"$u_2$={choice}" for choice in range(table.shape[1])], fontsize=8)
    panel.set_yticks(range(table.shape[0]), [f"$u_1$={choice}" for choice in range(table.shape[0])], fontsize=8)
