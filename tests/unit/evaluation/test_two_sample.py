"""Two-sample and independence tests: they see dependence, keep their level, and agree with plain formulas."""

import pytest
import torch
from torch import Tensor

from dof_lightning.evaluation.two_sample import classifier_accuracy, energy_test, hsic_test, product_draws
from tests.fixtures.policy_models import generator

LIMIT = 1e-3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def circle(conditions: int, n: int) -> Tensor:
    """Two agents on a noisy circle: uncorrelated, yet dependent."""
    angle = normal(conditions, n, seed=1) * 10
    x = torch.stack([angle.cos(), angle.sin()], dim=2)[..., None]
    return x + 0.1 * normal(*x.shape, seed=2)


def plain_alignment(x: Tensor, y: Tensor) -> Tensor:
    """tr(K H L H) / sqrt(tr(K H K H) tr(L H L H)) of draws `[n, D]`, straight from its definition."""
    kernels = []
    for part in (x / x.std(0), y / y.std(0)):
        squared = torch.cdist(part, part).square()
        kernels.append(torch.exp(-squared / (2 * squared.flatten().median())))
    centring = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        return torch.trace(a @ centring @ b @ centring)

    k, other = kernels
    return hsic(k, other) / (hsic(k, k) * hsic(other, other)).sqrt()


def test_the_energy_test_tells_a_dependent_pair_from_its_product_and_keeps_its_level() -> None:
    x, other = normal(2, 200, 2, 1), normal(2, 200, 2, 1, seed=1)
    dependent = torch.stack([x[:, :, 0], x[:, :, 0] + 0.3 * other[:, :, 0]], dim=2)
    product = product_draws(dependent.roll(1, 1), generator(2))
    assert torch.equal(product.sort(1).values, dependent.sort(1).values)
    assert energy_test(dependent.flatten(2), product.flatten(2), 2000, generator(3))[1] < LIMIT
    assert energy_test(x.flatten(2), other.flatten(2), 2000, generator(4))[1] > LIMIT


def test_hsic_is_the_plain_formula_of_the_most_dependent_pair() -> None:
    x = normal(1, 60, 3, 2)
    x[:, :, 2] = x[:, :, 0] + 0.5 * x[:, :, 2]
    pairs = [plain_alignment(x[0, :, i], x[0, :, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert pairs[1] == max(pairs)
    assert hsic_test(x, 60, generator())[0] == pytest.approx(float(pairs[1]), rel=1e-6)


def test_hsic_sees_dependence_without_correlation_and_none_where_there_is_none() -> None:
    value, p_value, _ = hsic_test(circle(2, 300), 2000, generator())
    assert p_value < LIMIT
    apart, p_apart, chance = hsic_test(product_draws(circle(2, 300), generator(5)), 2000, generator())
    assert p_apart > LIMIT
    assert 0 < chance < 0.02
    assert apart < 0.02 < value


def test_hsic_sees_one_dependent_pair_among_many_agents() -> None:
    x = normal(1, 300, 6, 1)
    assert hsic_test(x, 1000, generator())[1] > LIMIT
    x[:, :, 5] = x[:, :, 2] + x[:, :, 5]
    assert hsic_test(x, 1000, generator())[1] < LIMIT


def test_hsic_does_not_take_a_common_conditioning_for_dependence() -> None:
    x = normal(4, 200, 2, 1) + 5 * torch.arange(4.0)[:, None, None, None]
    assert hsic_test(x, 1000, generator())[1] > LIMIT
    assert hsic_test(x.flatten(0, 1)[None], 1000, generator())[1] < LIMIT, "mixed up, the conditionings do show"


def test_p_values_of_independent_draws_are_near_uniform() -> None:
    p = torch.tensor([hsic_test(normal(1, 50, 3, 1, seed=s), 100, generator(s))[1] for s in range(200)])
    energies = torch.tensor(
        [
            energy_test(normal(1, 50, 2, seed=2 * s), normal(1, 50, 2, seed=2 * s + 1), 100, generator(s))[1]
            for s in range(200)
        ]
    )
    for values in (p, energies):
        for level in (0.1, 0.25, 0.5, 0.75, 0.9):
            share = float((values <= level).float().mean())
            assert share == pytest.approx(level, abs=4 * (level * (1 - level) / 200) ** 0.5 + 0.02)


def test_what_never_moves_is_independent_of_everything() -> None:
    x = normal(1, 64, 2, 1)
    x[:, :, 1] = 0.25
    value, p_value, _ = hsic_test(x, 64, generator())
    assert value == pytest.approx(0.0, abs=1e-6)
    assert hsic_test(x[:, :, :1], 64, generator()) == (0.0, 1.0, 0.0)
    assert p_value > LIMIT


def test_the_classifier_tells_what_is_apart_and_guesses_where_nothing_is() -> None:
    x, y = normal(2, 400, 3), normal(2, 400, 3, seed=1)
    assert classifier_accuracy(x, y + 4) > 0.99
    assert classifier_accuracy(x, y) == pytest.approx(0.5, abs=0.06)
    guesses = [classifier_accuracy(normal(1, 60, 2, seed=s), normal(1, 60, 2, seed=s + 500)) for s in range(100)]
    assert sum(guesses) / 100 == pytest.approx(0.5, abs=0.025), "no bias"


def test_an_entry_that_never_varies_changes_nothing() -> None:
    x, y = normal(1, 100, 2, seed=1).float(), normal(1, 100, 2, seed=2).float() + 0.3
    constant = torch.full_like(x[..., :1], 1.0)  # an action at its limit
    wider = [torch.cat([draws, constant], dim=-1) for draws in (x, y)]
    without, beside = (energy_test(*pair, 0, generator())[0] for pair in ((x, y), wider))
    assert beside == pytest.approx(without, rel=1e-4)
    assert classifier_accuracy(*wider) == classifier_accuracy(x, y)
