"""The coordination gap: closed forms of tables and Gaussians, and its estimate from two trained models."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.xor import train_on_xor, trained_on_xor, xor_batch
from dof_lightning.diffusion import schedule
from dof_lightning.errors import UserError
from dof_lightning.evaluation.coordination_gap import estimate, integrate_errors
from dof_lightning.evaluation.two_sample import total_correlation
from dof_lightning.factorization import noise
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.attention_mlp import AttentionMLP
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy


def gaussian_errors(alpha_bars: Tensor, variance: float) -> Tensor:
    """`[K]`: E (eps - E[eps | y])^2 of a Gaussian coordinate, whose best denoiser is linear."""
    snr = alpha_bars[1:] / (1 - alpha_bars[1:])
    return variance * snr / (1 + variance * snr)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, -0.6])
def test_the_integral_gives_the_mutual_information_of_a_correlated_gaussian(rho: float) -> None:
    alpha_bars = schedule.cosine(1000).alpha_bars
    factorised = 2 * gaussian_errors(alpha_bars, 1.0)
    centralised = gaussian_errors(alpha_bars, 1 + rho) + gaussian_errors(alpha_bars, 1 - rho)
    gap = float(integrate_errors(factorised - centralised, alpha_bars))
    assert gap == pytest.approx(-math.log(1 - rho**2) / 2, abs=1e-3)


def test_few_levels_leave_a_small_error() -> None:
    alpha_bars = schedule.vp(20).alpha_bars
    difference = 2 * gaussian_errors(alpha_bars, 1.0)
    difference -= gaussian_errors(alpha_bars, 1.5) + gaussian_errors(alpha_bars, 0.5)
    assert float(integrate_errors(difference, alpha_bars)) == pytest.approx(-math.log(0.75) / 2, rel=0.1)


def test_total_correlation_of_tables() -> None:
    assert total_correlation(torch.eye(2)) == pytest.approx(math.log(2))
    assert total_correlation(torch.eye(3)) == pytest.approx(math.log(3))
    product = torch.tensor([0.2, 0.8])[:, None] * torch.tensor([0.5, 0.1, 0.4])
    assert total_correlation(product) == pytest.approx(0.0, abs=1e-7)
    a, b = 0.35, 0.15
    mild = torch.tensor([[a, b], [b, a]], dtype=torch.float64)
    assert total_correlation(7 * mild) == pytest.approx(2 * math.log(2) + 2 * (a * math.log(a) + b * math.log(b)))
    three = torch.zeros(2, 2, 2)
    three[0, 0, 0] = three[1, 1, 1] = 1
    assert total_correlation(three) == pytest.approx(2 * math.log(2))
    assert total_correlation(torch.tensor([0.3, 0.7])) == 0.0
    for wrong in (torch.zeros(2, 2), torch.tensor([[1.0, -0.1], [0.0, 0.1]])):
        with pytest.raises(ValueError, match="probabilities"):
            total_correlation(wrong)


def small_pair(**changes) -> tuple:
    a = small_dof_policy(noise_factorization=noise.WConcat)
    return a, small_dof_policy(noise_factorization=noise.Attention, execution="centralized", **changes)


def test_attention_that_adds_nothing_leaves_no_gap() -> None:
    a, b = small_pair()
    found = estimate(a, b, [small_batch(a.spec, 8), small_batch(a.spec, 4)], seed=0)
    assert found.nats == pytest.approx(0.0, abs=1e-5)
    assert found.windows == 12
    assert found.snr_lowest < 0.01 < found.snr_highest


def test_models_that_do_not_go_together_are_refused() -> None:
    a, b = small_pair()
    batches = [small_batch(a.spec, 4)]
    with pytest.raises(UserError, match="swap them"):
        estimate(b, a, batches, seed=0)
    with pytest.raises(UserError, match="schedule"):
        estimate(*small_pair(schedule=partial(schedule.vp, steps=7)), batches, seed=0)
    seeded = small_dof_policy(noise_factorization=noise.WConcat, shared_seeds=2)
    with pytest.raises(UserError, match="shared_seeds"):
        estimate(seeded, b, batches, seed=0)
    with pytest.raises(UserError, match="held out"):
        estimate(a, b, [], seed=0)


class JointDenoiser(Agentwise):
    """A network that sees both agents' x and k: what a centralised model can be at its best."""

    local_execution = False

    def __init__(self) -> None:
        super().__init__(n_agents=2, sharing="shared")
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        level = (k / 10 - 1)[:, None].to(x.dtype)
        return self.layers(torch.cat([x.flatten(1), level], dim=1))[..., None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "denoiser",
    [lambda spec, condition_dim: JointDenoiser(), partial(AttentionMLP, hidden=(64, 64))],
    ids=["a plain joint network", "attention_mlp"],
)
def test_two_models_of_xor_data_give_the_closed_form(denoiser) -> None:
    factorized = trained_on_xor("concat", seed=0, steps=6000, diffusion_steps=20)
    settings = {"denoiser": denoiser, "ema_decay": 0.98, "learning_rate": 3e-3, "execution": "centralized"}
    settings["schedule"] = partial(schedule.vp, steps=20)
    centralized = small_dof_policy(factorized.spec, **cloning(**settings))
    train_on_xor(centralized, seed=0, steps=6000)
    found = estimate(factorized, centralized, [xor_batch(4096, generator(7))], seed=0)
    expected = total_correlation(torch.tensor([[0.0, 0.5], [0.5, 0.0]]))
    assert found.nats == pytest.approx(expected, abs=0.1)
