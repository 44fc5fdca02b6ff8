"""The study of a one-shot game: how well mixtures of the agents' values reproduce payoffs, and act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dof_lightning.actors.value import ValueActor
from dof_lightning.algorithms.direct_value import DirectValue
from dof_lightning.algorithms.dof_value import DoFValue
from dof_lightning.checkpoints.checkpoint import Checkpoint, build_algorithm, build_env
from dof_lightning.errors import UserError
from dof_lightning.files import over_seeds
from dof_lightning.seeding import make_generator
from dof_lightning.spec import EnvSpec
from dof_lightning.studies.base import Axes, Cell, Report, Study, by_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS = 4  # number of tables side by side in the figure


class PayoffGame(Study):
    """Reconstructs payoff matrices: mean and standard deviation of h(x_1^0 .. x_N^0) at every joint choice.

    Args:
        axes, seeds: see `Study`.
        headline: labels, joined with ", ", of the cell whose error is the study's `max_error`.
        samples: number of draws of every x_i^0 at every joint choice.

    Raises:
        UserError: no cell has the labels of the headline, or `samples` is below 2.
    """

    def __init__(self, axes: Axes, seeds: Sequence[int], headline: str, samples: int = 1000) -> None:
        super().__init__(axes, seeds)
        names = {_name(plan.labels): None for plan in self.plans()}
        if headline not in names:
            raise UserError(f"study.headline={headline} is not a cell of the study; choose one of: {'; '.join(names)}")
        if samples < 2:
            raise UserError(f"study.samples={samples} must be at least 2")
        self.headline = headline
        self.samples = samples

    def measure(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
        """Measures `payoff`, `mean`, `std` (tables like the game's), `values` (mean per agent's choice) and `igm`."""
        algorithm = build_algorithm(checkpoint, config)
        if not isinstance(algorithm, (DoFValue, DirectValue)):
            raise UserError("this study compares agents' values: its cells need algorithm=dof_value or direct_value")
        env = build_env(config)
        payoff = payoff_table(env.spec)
        observation = env.reset(torch.zeros(1, dtype=torch.int64))
        drawn, mixed = sample_values(algorithm, observation, payoff.shape, self.samples, config["seed"])
        mean, values = mixed.mean(0), own_values(drawn.mean(0))
        return {
            "payoff": payoff.tolist(),
            "mean": mean.tolist(),
            "std": mixed.std(0).tolist(),
            "values": [of_agent.tolist() for of_agent in values],
            "igm": satisfies_igm(values, mean),
        }

    def report(self, cells: Sequence[Cell]) -> Report:
        """Makes a row and a heat map per cell, after those of the best additive fit."""
        if any(cell.measured["payoff"] != cells[0].measured["payoff"] for cell in cells):
            raise UserError("study.axes: cells of several games cannot share a table of reconstructions; use one game")
        payoff = torch.tensor(cells[0].measured["payoff"], dtype=torch.float64)
        fit = best_additive_fit(payoff)
        best = float(payoff.max())
        columns = [*self.axes, "max error", "largest std", "IGM", f"greedy return (best {best:g})", "reconstructed"]
        padding = [""] * (len(self.axes) - 1)
        rows: list[list[Any]] = [
            ["best additive fit (closed form)", *padding, f"{max_error(fit, payoff):.2f}", "-", "-", "-", _written(fit)]
        ]
        panels = {"payoff": payoff, "best additive fit": fit}
        errors: dict[str, list[float]] = {}
        for labels, group in by_labels(cells):
            means = [torch.tensor(cell.measured["mean"], dtype=torch.float64) for cell in group]
            deviations = [float(torch.tensor(cell.measured["std"]).max()) for cell in group]
            name = _name(labels)
            errors[name] = [max_error(mean, payoff) for mean in means]
            panels[name] = means[0]
            rows.append(
                [
                    *labels.values(),
                    over_seeds(errors[name], 2),
                    over_seeds(deviations, 3),
                    _share([cell.measured["igm"] for cell in group]),
                    over_seeds([cell.results["last"]["return_mean"] for cell in group]),
                    _written(means[0]),
                ]
            )
        results = {
            "max_error": max(errors[self.headline]),
            "max_error_of": self.headline,
            "max_errors": errors,
            "best_additive_fit": fit.tolist(),
            "measured": [{"labels": cell.labels, "seed": cell.seed, **cell.measured} for cell in cells],
        }
        return Report(columns, rows, _draw(panels, payoff) if payoff.ndim == 2 else None, results)


def payoff_table(spec: EnvSpec) -> Tensor:
    """The true payoffs, float64, one dimension per agent.

    Raises:
        UserError: the environment is not a matrix game.
    """
    if spec.recipe.get("family") != "matrix_game":
        raise UserError(f"env={spec.name} is not a matrix game: this study needs env=game_payoff_1 or another one")
    return torch.tensor(spec.recipe["payoff"], dtype=torch.float64)


@torch.no_grad()
def sample_values(
    algorithm: DoFValue | DirectValue, observation: Tensor, shape: torch.Size, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws every agent's own value at every joint choice, and joins them by h.

    Args:
        algorithm: the algorithm whose averaged weights act.
        observation: `[1, N, O]`.
        shape: shape of the payoff table.
        samples: S.
        seed: seed of the draws.

    Returns:
        own values `[S, A_1, .., A_N, N]` and team returns `[S, A_1, .., A_N]`, float64.
    """
    actor: ValueActor = algorithm.policy()
    joint = torch.cartesian_prod(*(torch.arange(choices) for choices in shape)).repeat(samples, 1)
    observations = observation.expand(len(joint), -1, -1)
    noise_shape = (actor.n_noises, len(joint), len(shape), 1)
    noise = torch.randn(noise_shape, generator=make_generator(seed, "payoff", "samples"))
    values = actor.rate(observations, joint, noise)
    mixed = algorithm.mix(values, observations)
    return values.double().reshape(samples, *shape, len(shape)), mixed.double().reshape(samples, *shape)


def own_values(values: Tensor) -> list[Tensor]:
    """Each agent's value of its own choices `[A_i]`: means of values `[A_1, .., A_N, N]` over the others' choices."""
    agents = range(values.shape[-1])
    return [values[..., i].mean([j for j in agents if j != i]) for i in agents]


def satisfies_igm(values: Sequence[Tensor], table: Tensor) -> bool:
    """Whether the agents' greedy choices by values `[A_i]` are the best of the team's table `[A_1, .., A_N]` (IGM)."""
    greedy = tuple(int(of_agent.argmax()) for of_agent in values)
    return bool(table[greedy] == table.max())


def best_additive_fit(payoff: Tensor) -> Tensor:
    """The least-squares table sum_i q_i(u_i): the sum of the agents' own means less N - 1 times the overall mean."""
    agents = range(payoff.ndim)
    shares = [payoff.mean([j for j in agents if j != i], keepdim=True) for i in agents]
    return sum(shares, torch.zeros_like(payoff)) - (payoff.ndim - 1) * payoff.mean()


def max_error(table: Tensor, payoff: Tensor) -> float:
    """The largest absolute difference of two tables."""
    return float((table - payoff).abs().max())


def _name(labels: Mapping[str, str]) -> str:
    return ", ".join(labels.values())


def _written(table: Tensor) -> str:
    """A table as text, such as `[[1.0, 0.0], [18.0, 1.0]]`."""
    return str([[round(value, 2) + 0.0 for value in row] for row in table.tolist()] if table.ndim == 2 else "-")


def _share(held: Sequence[bool]) -> str:
    if len(held) == 1:
        return "yes" if held[0] else "no"
    return f"{sum(held)} of {len(held)}"


def _draw(tables: Mapping[str, Tensor], payoff: Tensor) -> Figure:
    """Draws a heat map of each table `[A_1, A_2]` under its title, with numbers; colours span the payoff's range."""
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
