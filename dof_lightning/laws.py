"""How far a sampled law of two numbers is from the truth: quadrants, total correlation, energy distance."""

import torch
from torch import Tensor

from dof_lightning.igd import energy_test


def quadrant_table(points: Tensor) -> Tensor:
    """The share of points `[M, 2]` in each quadrant, `[2, 2]`: rows x1 < 0, x1 > 0, columns x2 < 0, x2 > 0."""
    index = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
    return torch.bincount(index, minlength=4).reshape(2, 2).double() / len(points)


def product_of_marginals(table: Tensor) -> Tensor:
    """The product law `[2, 2]` with the row and column sums of a table: the nearest product in KL divergence."""
    return table.sum(1, keepdim=True) * table.sum(0, keepdim=True)


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the summed absolute difference of two tables, in [0, 1]."""
    return float((p.double() - q.double()).abs().sum() / 2)


def total_correlation(table: Tensor) -> float:
    """KL divergence, in nats, of a table from the product of its marginals: no product law comes nearer to it.

    That of the mixture is its table's, as modes ten sigma off the axes do not overlap.
    """
    table = table.double()
    return float(torch.special.xlogy(table, table / product_of_marginals(table).clamp_min(1e-300)).sum())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Squared energy distance of two samples `[n, D]` of one size, each dimension in units of the pooled deviation.

    It is the statistic of `dof_lightning.igd.energy_test`, which is biased: samples of one law differ by about
    E|x - x'| / n.

    Args:
        x: a sample.
        y: another.
    """
    return energy_test(x.double()[None], y.double()[None], 0, torch.Generator(device=x.device))[0]
