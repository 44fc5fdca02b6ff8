"""Tests whether two samples have the same distribution, and whether the agents' parts of a draw are independent.

They take C conditionings at once, never mix draws of different conditionings, and return one number for all.
"""

import torch
from torch import Tensor


def product_draws(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draws `[C, n, N, D]` of the marginals' product: each agent's part comes from another draw of its conditioning."""
    order = torch.rand(x.shape[:3], generator=generator, device=x.device).argsort(1)
    return x.gather(1, order[..., None].expand_as(x))


def energy_test(x: Tensor, y: Tensor, permutations: int, generator: torch.Generator) -> tuple[float, float]:
    """Squared energy distance (Szekely and Rizzo, 2013), mean over conditionings, and its permutation p-value.

    With labels s = +-1 of the pooled draws and D their distances, it is -s^T D s / n^2.

    Args:
        x: `[C, n, D]` draws.
        y: as many draws of the other sample.
        permutations: number of permutations of labels, within each conditioning.
        generator: draws them.
    """
    n, distances = x.shape[1], _pooled_distances(x, y)
    labels = torch.ones(len(x), 1, 2 * n, dtype=x.dtype, device=x.device)
    labels[..., n:] = -1
    shuffled = torch.rand(len(x), permutations, 2 * n, generator=generator, device=x.device).argsort(-1)
    labels = torch.cat([labels, labels.expand(-1, permutations, -1).gather(2, shuffled)], dim=1)
    statistic = -((labels @ distances) * labels).sum(2).mean(0) / n**2
    return float(statistic[0]), _p_value(statistic[0], statistic[1:])


def classifier_accuracy(x: Tensor, y: Tensor, folds: int = 4) -> float:
    """Classifier two-sample test (Lopez-Paz and Oquab, 2017): accuracy of nearest neighbours in separating x and y.

    The classifier is the vote of the k nearest neighbours, k = sqrt(training draws) made odd, cross-validated: a draw
    is judged by the other folds. Every fold has as many draws of x as of y, so if both have the same distribution the
    accuracy is 0.5 in expectation. Its standard deviation is then above sqrt(1 / (8 C n)), because neighbours' votes
    are correlated: 1.26 times that over 100 seeds with C = 2, n = 100, D = 2.

    Args:
        x: `[C, n, D]` draws.
        y: as many draws of the other sample.
        folds: number of folds, at least 2.
    """
    n, distances = x.shape[1], _pooled_distances(x, y)
    fold = (torch.arange(n, device=x.device) * folds // n).repeat(2)
    trained_on = distances.masked_fill(fold[:, None] == fold[None], torch.inf)
    neighbours = int((2 * n * (folds - 1) / folds) ** 0.5) // 2 * 2 + 1
    labels = torch.ones(2 * n, dtype=x.dtype, device=x.device)
    labels[n:] = -1
    votes = labels[trained_on.topk(neighbours, largest=False).indices].sum(-1)
    return float((votes.sign() == labels).to(x.dtype).mean())


def hsic_test(x: Tensor, permutations: int, generator: torch.Generator) -> tuple[float, float, float]:
    """Hilbert-Schmidt independence criterion of the most dependent pair of agents, and its permutation p-value.

    HSIC_ij = tr(K_i H K_j H) / n^2 (Gretton et al., 2005, eq. 9) with Gaussian kernels, the median distance as
    bandwidth. It is divided by sqrt(HSIC_ii HSIC_jj) (kernel alignment, Cortes et al., 2012), so it lies in [0, 1] in
    any unit, and is averaged over conditionings before the largest pair is taken; the same is done for every
    permutation, so the p-value holds for all pairs together.

    A permutation reshuffles every agent's draws and then shifts agent i's by i s. All n shifts s of a reshuffling are
    computed by one Fourier transform along the kernels' diagonals. Each is a uniformly random permutation; those of one
    reshuffling are not independent of each other, which makes the p-value a little noisier than with as many separate
    ones, but does not change its mean [ours].

    Args:
        x: `[C, n, N, D]` draws.
        permutations: number of permutations, rounded up to whole reshufflings of n each.
        generator: draws them.

    Returns:
        the criterion, the p-value, and the criterion's mean over the permutations: its value for independent agents,
        about 1 / n for single numbers and much more for long vectors; (0, 1, 0) for one agent.
    """
    n, n_agents = x.shape[1:3]
    if n_agents == 1:
        return 0.0, 1.0, 0.0
    rounds = -(-permutations // n)
    observed = torch.zeros(n_agents, n_agents, dtype=x.dtype, device=x.device)
    shuffled = observed.new_zeros(rounds, n, n_agents, n_agents)
    for draws in x:  # one conditioning at a time: its kernels take 24 N n^2 bytes
        kernels = _centred_kernels(draws)
        flat = kernels.flatten(1)
        observed += flat @ flat.T / len(x)
        for index in range(rounds):
            order = torch.rand(n_agents, n, generator=generator, device=x.device).argsort(-1)
            shuffled[index] += _alignments_of_shifts(_reorder(kernels, order)) / len(x)
    above = torch.triu_indices(n_agents, n_agents, offset=1, device=x.device)
    statistic = observed[above[0], above[1]].amax()
    permuted = shuffled[..., above[0], above[1]].amax(-1).flatten()
    return float(statistic), _p_value(statistic, permuted), float(permuted.mean())


def _p_value(statistic: Tensor, permuted: Tensor) -> float:
    """The p-value (1 + number of permutations at least as large) / (1 + number of permutations)."""
    return float((1 + (permuted >= statistic).sum()) / (1 + len(permuted)))


def _pooled_distances(x: Tensor, y: Tensor) -> Tensor:
    """`[C, 2n, 2n]` distances of both samples' draws, every entry in units of its standard deviation."""
    pooled = torch.cat([x, y], dim=1)
    scaled = pooled / _spread_or_one(pooled)
    return torch.cdist(scaled, scaled)


def _spread_or_one(draws: Tensor) -> Tensor:
    """Standard deviations over the second dimension, 1 for entries that vary by rounding only, which would dominate."""
    spread = draws.std(1, keepdim=True)
    return torch.where(spread > 1e-6, spread, 1.0)


def _centred_kernels(draws: Tensor) -> Tensor:
    """`[N, n, n]` of draws `[n, N, D]`, of norm 1; all zeros if an agent's draws are all the same."""
    parts = draws.transpose(0, 1)
    scaled = parts / _spread_or_one(parts)
    squared = torch.cdist(scaled, scaled).square()
    bandwidth = squared.flatten(1).median(1).values.clamp_min(1e-12)
    kernel = torch.exp(-squared / (2 * bandwidth[:, None, None]))
    centred = kernel - kernel.mean(1, keepdim=True) - kernel.mean(2, keepdim=True) + kernel.mean((1, 2), keepdim=True)
    norm: Tensor = torch.linalg.matrix_norm(centred)
    return centred / norm.clamp_min(1e-9)[:, None, None]


def _reorder(kernels: Tensor, order: Tensor) -> Tensor:
    """Reorders kernels `[N, n, n]` by an order of draws `[N, n]`."""
    agents = torch.arange(len(kernels), device=kernels.device)[:, None, None]
    return kernels[agents, order[:, :, None], order[:, None]]


def _alignments_of_shifts(kernels: Tensor) -> Tensor:
    """`[n, N, N]` of kernels `[N, n, n]`: sum_tu K_i[t, u] K_j[t + r, u + r] at r = (j - i) s, for every s."""
    n_agents, n = kernels.shape[:2]
    places = torch.arange(n, device=kernels.device)
    diagonals = kernels[:, places[:, None], (places[:, None] + places) % n]  # [N, t, d] = K[t, t + d]
    spectra = torch.fft.rfft(diagonals, dim=1).transpose(0, 1)  # [frequency, N, d]
    aligned = torch.fft.irfft(spectra.conj() @ spectra.transpose(1, 2), n=n, dim=0)  # [r, N, N]
    agents = torch.arange(n_agents, device=kernels.device)
    relative = (places[:, None, None] * (agents[None] - agents[:, None])) % n
    return aligned.gather(0, relative)


def total_correlation(table: Tensor) -> float:
    """Sum of the marginals' entropies minus the joint entropy, in nats; 0 exactly for products.

    For a mixture of well separated components with independent noise, it is that of the table of their weights.

    Args:
        table: `[n_1, ..., n_N]`, probability (or any weight, at least 0) of each joint outcome.

    Raises:
        ValueError: weights are negative, or all zero.
    """
    weights = table.double()
    if bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise ValueError("a table of probabilities has weights of at least 0, not all of them 0")
    joint = weights / weights.sum()
    axes = range(joint.ndim)
    marginals = [joint.sum([other for other in axes if other != axis]) if joint.ndim > 1 else joint for axis in axes]
    return float(sum(_entropy(marginal) for marginal in marginals) - _entropy(joint))


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum()


def quadrant_table(points: Tensor) -> Tensor:
    """The share of points `[M, 2]` in each quadrant, `[2, 2]`: rows are x1 < 0, x1 > 0, columns x2 < 0, x2 > 0."""
    index = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
    return torch.bincount(index, minlength=4).reshape(2, 2).double() / len(points)


def product_of_marginals(table: Tensor) -> Tensor:
    """The product distribution `[2, 2]` with a table's row and column sums: the nearest product in KL divergence."""
    return table.sum(1, keepdim=True) * table.sum(0, keepdim=True)


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the summed absolute difference of two tables, in [0, 1]."""
    return float((p.double() - q.double()).abs().sum() / 2)


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Squared energy distance of two samples `[n, D]` of equal size, each dimension in units of the pooled deviation.

    It is the statistic of `dof_lightning.evaluation.two_sample.energy_test`, which is biased: samples of one
    distribution differ by about E|x - x'| / n.

    Args:
        x: a sample.
        y: another sample.
    """
    return energy_test(x.double()[None], y.double()[None], 0, torch.Generator(device=x.device))[0]
