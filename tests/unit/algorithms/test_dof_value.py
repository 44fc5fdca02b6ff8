"""Generated values: the parts that each loss trains, the agents' choices, and the payoffs that mixers reproduce."""

import pytest
import torch
from torch import Tensor

from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise, value
from dof_lightning.studies.payoff_game import best_additive_fit, max_error, sample_values
from tests.fixtures.small_spec import small_spec
from tests.fixtures.value_models import (
    NONMONOTONE,
    P1,
    all_joint_choices,
    game_spec,
    small_direct_value,
    small_dof_value,
    train,
)


def reconstructed(algorithm: object, payoff: list[list[float]]) -> Tensor:
    shape = torch.tensor(payoff).shape
    _, mixed = sample_values(algorithm, torch.zeros(1, 2, 1), shape, 200, seed=0)  # type: ignore[arg-type]
    return mixed.mean(0)


def error_of(algorithm: object, payoff: list[list[float]]) -> float:
    return max_error(reconstructed(algorithm, payoff), torch.tensor(payoff, dtype=torch.float64))


def test_generated_values_reproduce_a_monotone_payoff() -> None:
    algorithm = small_dof_value(game_spec(P1), value.SelfAttention)
    before = error_of(algorithm, P1)
    train(algorithm, all_joint_choices(P1), 600)
    assert before > 5
    assert error_of(algorithm, P1) < 0.5


def test_a_sum_of_generated_values_is_the_best_additive_fit() -> None:
    algorithm = small_dof_value(game_spec(P1), value.Sum)
    train(algorithm, all_joint_choices(P1), 600)
    fit = best_additive_fit(torch.tensor(P1, dtype=torch.float64))
    assert max_error(reconstructed(algorithm, P1), fit) < 0.5


@pytest.mark.parametrize("mixer", [value.Sum, value.Weighted, value.Monotone, value.Attention])
def test_no_monotone_mixer_comes_nearer_than_half_the_smaller_reversal(mixer: type) -> None:
    # Row 1 above row 0 orders 0 >= 14, row 0 above row 1 orders 0 >= 8: an error of at least 4, whatever is learned.
    algorithm = small_direct_value(game_spec(NONMONOTONE), mixer)
    train(algorithm, all_joint_choices(NONMONOTONE), 300)
    assert error_of(algorithm, NONMONOTONE) >= 4.0 - 1e-4


def test_with_one_state_the_monotone_mixer_gains_most_where_both_agents_rise() -> None:
    # Sums of convex functions of rising sums: what docs/method/games_payoff.md says that QMIX can represent there.
    # In float64: the values may be large where weights happen to be, and float32 rounds by more than what is compared.
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(500, 2, 1, generator=generator, dtype=torch.float64)
    high = low + torch.rand(500, 2, 1, generator=generator, dtype=torch.float64)
    state = torch.zeros(500, 0, dtype=torch.float64)
    first, second = torch.eye(2, dtype=torch.float64)[..., None]
    for seed in range(20):
        torch.manual_seed(seed)
        mixer = value.Monotone(game_spec(P1), state_dim=0).double()
        both, neither = mixer(high, state), mixer(low, state)
        one, other = (mixer(low + (high - low) * chosen, state) for chosen in (first, second))
        assert bool((both + neither >= one + other - 1e-9).all())


def test_self_attention_over_values_reproduces_what_no_monotone_mixer_can() -> None:
    algorithm = small_direct_value(game_spec(NONMONOTONE), value.SelfAttention)
    train(algorithm, all_joint_choices(NONMONOTONE), 400)
    assert error_of(algorithm, NONMONOTONE) < 0.1
    assert not algorithm.value.mixer.satisfies_igm


def test_self_attention_starts_as_the_sum() -> None:
    mixer = value.SelfAttention(game_spec(P1), state_dim=0)
    values = torch.randn(64, 2, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixer(values, torch.zeros(64, 0)), values.sum(1))


def test_the_denoisers_learn_from_the_noise_error_and_the_values_from_the_payoff_alone() -> None:
    algorithm = small_dof_value(game_spec(P1), value.SelfAttention)
    losses = algorithm.losses(all_joint_choices(P1), torch.Generator().manual_seed(0))
    own = [p for p in algorithm.value.parameters()]
    denoisers = [*algorithm.denoiser.parameters(), *algorithm.noise_factorization.parameters()]
    of_values = torch.autograd.grad(losses["loss/diffusion"], own, retain_graph=True, allow_unused=True)
    of_denoisers = torch.autograd.grad(losses["loss/value"], denoisers, allow_unused=True)
    assert all(gradient is None for gradient in (*of_values, *of_denoisers))
    assert losses["loss"] == losses["loss/value"] + losses["loss/diffusion"]


def test_agents_take_the_legal_choice_that_they_rate_best() -> None:
    algorithm = small_dof_value(game_spec([[8.0, -12.0, 0.0], [-12.0, 0.0, 3.0]]), value.Sum)
    policy = algorithm.policy()
    observations = torch.zeros(50, 2, 1)
    noise_of_all = policy.draw_noise(50, torch.Generator().manual_seed(0))
    with torch.no_grad():
        free, _ = policy.act_on_noise(observations, None, None, noise_of_all)
        rated = torch.stack(
            [
                policy.rate(
                    observations, torch.full((50, 2), choice), noise_of_all[:, :, choice].movedim(-1, 0)[..., None]
                )
                for choice in range(2)
            ],
            dim=2,
        ).squeeze(-1)
        legal = torch.ones(50, 2, 3, dtype=torch.bool)
        legal.scatter_(2, free[..., None], False)
        legal[:, 0, 2] = False
        other, _ = policy.act_on_noise(observations, None, legal, noise_of_all)
    assert torch.equal(free[:, 0], rated[:, 0].argmax(-1)), "the first agent has two choices, the third is padding"
    assert not bool((free == other).any())
    assert bool((other[:, 0] < 2).all())


def test_an_exported_agent_of_discrete_choices_acts_as_among_all() -> None:
    policy = small_dof_value(game_spec(P1), value.Sum).policy()
    observations, noise_of_all = torch.zeros(20, 2, 1), policy.draw_noise(20, torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, _ = policy.act_on_noise(observations, None, None, noise_of_all)
        for agent in range(2):
            mine = slice(agent, agent + 1)
            alone, _ = policy.export(agent).act_on_noise(observations[:, mine], None, None, noise_of_all[:, mine])
            assert torch.equal(alone, together[:, mine])


def test_continuous_candidates_are_uniform_and_the_best_of_them_is_taken() -> None:
    policy = small_direct_value(small_spec(), value.Sum, candidates=64).policy()
    observations = torch.randn(200, 3, 4, generator=torch.Generator().manual_seed(0))
    drawn = policy.draw_noise(200, torch.Generator().manual_seed(1))
    with torch.no_grad():
        best, _ = policy.act_on_noise(observations, None, None, drawn)
        first, _ = policy.act_on_noise(observations, None, None, drawn[:, :, :1].expand(-1, -1, 64, -1))
        none = torch.zeros(0, 200, 3, 1)
        assert bool((policy.rate(observations, best, none) >= policy.rate(observations, first, none)).all())
    assert first[:, 0].std() == pytest.approx(3**-0.5, abs=0.06)
    assert bool((first[:, 1, 1] == 0).all()), "padding stays zero"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_factorization": noise.QMix}, "noise_factorization: QMix .*choose noise_factorization=concat"),
        ({"data_factorization": data.WConcat}, "data_factorization: WConcat .*choose data_factorization=concat"),
        ({"candidates": 0}, r"algorithm\.candidates=0 must be at least 1"),
        ({"ema_decay": 1.0}, r"algorithm\.ema_decay=1.0"),
        ({"value_learning_rate": 0.0}, r"algorithm\.value_learning_rate=0.0 must be above 0"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_dof_value(game_spec(P1), value.Sum, **changes)
