"""The choice of an agent among its own candidates."""

import pytest
import torch

from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.rollout.certificate import certify
from tests.fixtures.policy_models import generator, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.toy_world import ToyEnv

M = 4


def actor(selection: str = "softmax", temperature: float = 0.05, reward_scale: float = 1.0) -> DiffusionActor:
    return small_dof_policy(
        small_spec((2, 2, 2)),
        candidates=M,
        selection=selection,
        selection_temperature=temperature,
        reward_scale=reward_scale,
    ).policy()


def test_softmax_draws_candidates_by_their_values() -> None:
    policy, episodes = actor(), 4000
    noise = policy.draw_noise(1, generator(1)).repeat(episodes, 1, 1, 1, 1)
    noise[..., -1, :] = policy.draw_noise(episodes, generator(2))[..., -1, :]  # the same candidates every time
    observation = torch.randn(1, 3, 4, generator=generator())
    chosen, _ = policy.act_on_noise(observation.repeat(episodes, 1, 1), None, None, noise)
    assert policy.critic is not None
    condition = policy.normalizer.normalize(observation).repeat(M, 1, 1)
    candidates = policy._sample(condition, noise[0, :, :, :-1].permute(2, 1, 0, 3))
    values = policy.critic(condition, candidates).amin(0)
    expected = (values / policy.selection_temperature).softmax(0)
    assert 0.1 < expected.max() < 0.95, "nothing to tell apart"
    taken = (chosen[:, None] - candidates[None]).abs().amax(-1).argmin(1)
    frequency = torch.nn.functional.one_hot(taken, M).float().mean(0).T
    assert (frequency - expected).abs().max() < 0.04


def test_a_cold_softmax_takes_the_best() -> None:
    cold, best = actor(temperature=1e-7), actor("argmax")
    observations, noise = torch.randn(50, 3, 4, generator=generator()), cold.draw_noise(50, generator(1))
    ours, _ = cold.act_on_noise(observations, None, None, noise)
    theirs, _ = best.act_on_noise(observations, None, None, noise[..., :-1, :])
    torch.testing.assert_close(ours, theirs)
    assert best.draw_noise(50, generator(1)).shape == (50, 3, M, best.sampler.n_noises, 2)


def test_the_temperature_is_in_the_rewards_unit() -> None:
    """Critics see rewards times the scale, so their values and the temperature carry the same factor."""
    assert actor(temperature=0.2, reward_scale=0.5).selection_temperature == pytest.approx(0.1)


def test_agents_draw_alone_and_as_pure_functions_of_their_noise() -> None:
    policy = actor()
    assert certify(policy, ToyEnv(), seed=0).passed
    observations, noise = torch.randn(20, 3, 4, generator=generator()), policy.draw_noise(20, generator(1))
    together, _ = policy.act_on_noise(observations, None, None, noise)
    assert torch.equal(policy.act_on_noise(observations, None, None, noise)[0], together)
    for i in range(3):
        own = slice(i, i + 1)
        alone, _ = policy.export(i).act_on_noise(observations[:, own], None, None, noise[:, own])
        torch.testing.assert_close(alone, together[:, own])


@pytest.mark.parametrize("extreme", [9.0, -9.0])
def test_an_extreme_draw_does_not_outweigh_a_much_better_candidate(extreme: float) -> None:
    policy = actor()
    noise, values = policy.draw_noise(2, generator()), torch.zeros(2, M, 3)
    noise[:, :, 0, -1, 0] = extreme
    values[:, 2] = 5.0
    assert bool((policy._choose(values, noise) == 2).all())
