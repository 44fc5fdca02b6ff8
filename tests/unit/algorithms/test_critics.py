"""TD targets, masks and moving averages of the critics, with online, target and averaged weights all different."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.critics import Situation, TeamCritic
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.batch import EpisodeBatch
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy

SCALE = 0.37


def scramble(module: nn.Module, seed: int = 0) -> None:
    for index, parameter in enumerate(module.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator(seed + index))


def make(**changes: Any) -> tuple[DoFPolicy, TeamCritic, EpisodeBatch]:
    model = small_dof_policy(reward_scale=SCALE, **changes)
    scramble(model.denoiser, 1)
    assert model.critic is not None
    scramble(model.critic.online, 100)
    return model, model.critic, small_batch(model.spec)


def say(critic: nn.Module, first: float, second: float) -> None:
    """Makes the twins constant for all agents."""
    last = critic.network.layers[-1]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.tensor([first, second]).repeat_interleave(3).view(6, 1, 1))


def target_of(model: DoFPolicy, batch: EpisodeBatch) -> Tensor:
    assert model.critic is not None
    now, x0 = model._current(batch)
    seen = model._experience(batch, now, x0, Assignment(), generator(5))
    next_values = model.critic.next_values(seen.following, seen.next_actions())
    return model.critic._target(batch, now, next_values)


def test_target_is_reward_plus_discounted_smaller_twin_unless_terminated() -> None:
    model, critic, batch = make(critics="separate")
    say(critic.target.critic, 5.0, 3.0)
    ended = batch.terminated.float()
    expected = SCALE * batch.rewards[:, :, 0] + 0.9 * (1 - ended) * 3.0
    torch.testing.assert_close(target_of(model, batch), expected)
    assert batch.truncated.any()
    assert batch.terminated.any()


def test_team_target_is_the_mean_reward_plus_the_mixed_value() -> None:
    model, critic, batch = make(critics="mixed")
    say(critic.target.critic, 5.0, 3.0)
    condition = model._experience(batch, *model._current(batch), Assignment(), generator(5)).following.condition
    assert critic.target.mixer is not None
    values = torch.stack([critic.target.mixer(torch.full((32, 3, 1), q), condition.flatten(1)) for q in (5.0, 3.0)])
    team = SCALE * batch.rewards[:, :, 0].mean(1, keepdim=True)
    expected = team + 0.9 * (1 - batch.terminated.float()) * values.amin(0)
    torch.testing.assert_close(target_of(model, batch), expected)


@pytest.mark.parametrize("critics", ["mixed", "joint"])
def test_a_team_earns_as_much_after_a_death(critics: str) -> None:
    """Battles pay every ally, dead or alive, the team's whole reward."""
    model, critic, batch = make(critics=critics)
    batch.rewards[:] = 1.0
    batch.terminated[:] = True
    batch.alive = torch.ones(32, 3, 2, dtype=torch.bool)
    batch.alive[::2, 1:] = False
    now, _ = model._current(batch)
    torch.testing.assert_close(target_of(model, batch), torch.full((32, 1), SCALE))
    torch.testing.assert_close(critic.in_sample_target(batch, now, torch.zeros(32, 1)), torch.full((32, 1), SCALE))


@pytest.mark.parametrize("critics", ["separate", "mixed"])
def test_target_comes_from_averages_and_the_next_row_only(critics: str) -> None:
    model, critic, batch = make(critics=critics)
    before = target_of(model, batch)
    scramble(model.denoiser)
    scramble(critic.online)
    batch.observations[:, :, 0] += 1.0
    batch.actions += 0.1
    assert torch.equal(target_of(model, batch), before)
    assert not before.requires_grad
    for change in (
        lambda: scramble(model.average_denoiser),
        lambda: scramble(critic.target),
        lambda: batch.observations[:, :, 1].add_(1.0),
    ):
        change()
        after = target_of(model, batch)
        assert not torch.allclose(after, before)
        before = after


def test_next_observations_are_normalised() -> None:
    model, _, batch = make(critics="separate")
    plain, _, _ = make(critics="separate", observation_normalizer="identity")
    shift, width = model.spec.statistics.observations.mean, model.spec.statistics.observations.std
    already = small_batch(model.spec)
    already.observations = (already.observations - torch.from_numpy(shift)[:, None]) / torch.from_numpy(width)[:, None]
    torch.testing.assert_close(target_of(model, batch), target_of(plain, already), rtol=1e-4, atol=1e-4)


def test_rows_that_are_no_transitions_do_not_count() -> None:
    model, _, batch = make(critics="separate")
    batch.transition_mask[::2, 1] = False
    before = model.losses(batch, generator())["loss/critic"]
    batch.rewards[::2, 1] += 100.0
    torch.testing.assert_close(model.losses(batch, generator())["loss/critic"], before)
    batch.rewards[1::2, 1] += 100.0
    assert model.losses(batch, generator())["loss/critic"] > before + 1.0


def test_actors_are_judged_by_the_smaller_online_twin() -> None:
    model, critic, batch = make(critics="separate")
    say(critic.online.critic, 2.0, 7.0)
    values = critic.frozen_values(Situation(batch.observations[:, :, 0]), batch.actions[:, :, 0])
    torch.testing.assert_close(values, torch.full((32, 3), 2.0))
    assert model.settings.q_weight > 0


def test_target_moves_by_tau() -> None:
    model, critic, _ = make()
    before = [p.clone() for p in critic.target.parameters()]
    model.after_step()
    for old, new, online in zip(before, critic.target.parameters(), critic.online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_values_are_reported_in_the_rewards_unit() -> None:
    model, critic, batch = make(critics="separate")
    say(critic.online.critic, 2.0, 2.0)
    assert float(model.losses(batch, generator())["q/value"].detach()) == pytest.approx(2.0 / SCALE, rel=1e-5)
