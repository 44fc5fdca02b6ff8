"""The study of two-dimensional data: methods sample the true mixture, or only its marginals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dof_lightning.checkpoints.checkpoint import Checkpoint, build_algorithm, build_env
from dof_lightning.envs.games import GaussianGame, coordinates
from dof_lightning.errors import UserError
from dof_lightning.evaluation.two_sample import energy_distance, quadrant_table, total_correlation, total_variation
from dof_lightning.files import over_seeds
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.seeding import make_generator
from dof_lightning.studies.base import Cell, Report, Study, by_labels, execution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 4096
COMPARED = 2000  # points used by the energy distance and the figure
LARGEST_ROW = 6  # number of panels side by side in the figure
SPAN = 1.5  # limit of the figure's axes
NUMBERS = ("total_variation", "energy_distance", "off_modes", "total_correlation")


class GaussianGameStudy(Study):
    """Samples every cell's policy at the game's only observation, and compares the samples with the true distribution.

    The first axis is the data, the second the method.
    """

    def measure(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
        """Measures the values of `judge`, `weights` (the true table) and `points` (some of the samples)."""
        game, seed = build_env(config), config["seed"]
        if not isinstance(game, GaussianGame):
            raise UserError(f"study=game_gaussian measures env=game_gaussian_..., not {game.spec.name}")
        policy = build_algorithm(checkpoint, config).policy()
        seeds = evaluation_seeds(seed, "report", SAMPLES)
        played = run_rollout(policy, game, seeds, (seed, "game_gaussian"), chunk=1024, record=True)
        assert played.actions is not None
        points = coordinates(played.actions[:, :, 0])
        judged = judge(points, game, make_generator(seed, "game_gaussian", "truth"))
        return judged | {"weights": game.weights.tolist(), "points": _rounded(points[:COMPARED])}

    def report(self, cells: Sequence[Cell]) -> Report:
        """Makes a row per cell, after one of the truth, and a grid of densities."""
        columns = [*self.axes, "execution", "seeds", "quadrants --, -+, +-, ++", "total variation"]
        columns += ["energy distance", "off the modes", "total correlation (nats)", "wall time (s)"]
        rows: list[list[Any]] = []
        truths: dict[str, dict[str, Any]] = {}
        for labels, group in by_labels(cells):
            data, *method = labels.values()
            if data not in truths:
                truths[data] = _truth(group[0].measured["weights"])
                rows.append([data, *(["truth"] * len(method)), "-", "-", *_numbers([truths[data]]), "-"])
            wall = over_seeds([cell.results["wall_seconds"] for cell in group], 0)
            measured = [cell.measured for cell in group]
            rows.append([data, *method, execution(group), len(group), *_numbers(measured), wall])
        found = [{"labels": c.labels, "seed": c.seed} | _without_points(c.measured) for c in cells]
        truth = {data: _without_points(judged) for data, judged in truths.items()}
        return Report(columns, rows, _densities(cells, truths), {"measured": found, "truth": truth})


def judge(points: Tensor, game: GaussianGame, generator: torch.Generator) -> dict[str, Any]:
    """Compares samples of a game with its true distribution.

    Args:
        points: `[M, 2]` coordinates, M at least 2.
        game: the game with the true distribution.
        generator: draws the fresh true data that the samples are compared with.

    Returns:
        `quadrants` [2][2]; `total_variation` between that table and the true one; `energy_distance` to fresh true data;
        `off_modes`, the share of points beyond 3 sigma of every mode; `total_correlation` of the table, nats.
    """
    table = quadrant_table(points)
    compared = points[:COMPARED].cpu()
    beyond = (points - points.sign()).norm(dim=-1) > 3 * game.sigma
    return {
        "quadrants": table.tolist(),
        "total_variation": total_variation(table, game.weights),
        "energy_distance": energy_distance(compared, game.draw(len(compared), generator)),
        "off_modes": float(beyond.double().mean()),
        "total_correlation": total_correlation(table),
    }


def _truth(weights: list[list[float]]) -> dict[str, Any]:
    """The measurements of a perfect sampler, from its own draws; its total correlation is exact."""
    game = GaussianGame(weights)
    points = game.draw(SAMPLES, make_generator(0, "game_gaussian", "perfect"))
    judged = judge(points, game, make_generator(0, "game_gaussian", "truth"))
    return judged | {"total_correlation": total_correlation(game.weights), "points": _rounded(points[:COMPARED])}


def _numbers(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    tables = [[value for row in one["quadrants"] for value in row] for one in measured]
    quadrants = ", ".join(over_seeds(values, 2) for values in zip(*tables, strict=True))
    return [quadrants, *(over_seeds([one[key] for one in measured], 3) for key in NUMBERS)]


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in point] for point in points.tolist()]


def _without_points(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measured.items() if key != "points"}


def _densities(cells: Sequence[Cell], truths: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws a grid: one row per dataset, columns for truth and methods (wrapped if many), only the first seed."""
    from matplotlib.figure import Figure

    drawn: dict[str, dict[str, list]] = {data: {"truth": truth["points"]} for data, truth in truths.items()}
    for labels, group in by_labels(cells):
        data, *method = labels.values()
        drawn[data][", ".join(method)] = group[0].measured["points"]
    wrapped = [
        [(f"{data}: {name}", points) for name, points in row]
        for data, panels in drawn.items()
        for row in _rows_of(list(panels.items()))
    ]
    columns = max(map(len, wrapped))
    figure = Figure(figsize=(2.4 * columns, 2.4 * len(wrapped)), layout="constrained")
    grid = figure.subplots(len(wrapped), columns, sharex=True, sharey=True, squeeze=False)
    for axes_of_row, row in zip(grid, wrapped, strict=True):
        for axes in axes_of_row[len(row) :]:
            axes.set_axis_off()
        for axes, (title, points) in zip(axes_of_row, row, strict=False):
            x, y = zip(*points, strict=True)
            axes.hist2d(x, y, bins=60, range=[[-SPAN, SPAN], [-SPAN, SPAN]], cmap="Blues", vmax=len(points) / 150)
            axes.set_title(title, fontsize=8)
            axes.set_aspect("equal")
    return figure


def _rows_of(panels: list[tuple[str, list]]) -> list[list[tuple[str, list]]]:
    return [panels[start : start + LARGEST_ROW] for start in range(0, len(panels), LARGEST_ROW)]
