"""Values beside plans: what is asked for is what the actions of one step earn, and the best plan is taken."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dof_lightning.algorithms.dof_trajectory import DoFTrajectory
from dof_lightning.algorithms.parts.advantage import AdvantageCondition
from dof_lightning.errors import UserError
from tests.fixtures.policy_models import generator
from tests.fixtures.small_spec import small_spec
from tests.fixtures.trajectory_models import HISTORY, small_dof_trajectory, small_windows
from tests.unit.algorithms.test_dof import randomize_weights

RANKED = {"critics": "separate", "candidates": 5}


def advantage_of(model: DoFTrajectory) -> AdvantageCondition:
    assert model.values.advantage is not None
    return model.values.advantage


def test_advantages_are_one_steps_reward_and_what_it_makes_of_the_value() -> None:
    model = small_dof_trajectory(returns="advantage")
    advantage, batch = advantage_of(model), small_windows(model)
    batch.terminated[0, HISTORY] = batch.truncated[1, HISTORY] = True
    values = torch.randn(16, 3, batch.rewards.shape[2] + 1, generator=generator())
    found, real = advantage.advantages(batch, values), batch.transition_mask[:, :, HISTORY]
    earned = batch.rewards[:, :, HISTORY] / 2.0 - values[:, :, HISTORY]
    goes_on = earned + 0.99 * values[:, :, HISTORY + 1]
    torch.testing.assert_close(found[:2], (earned * real)[:2])  # nothing follows an episode's end
    torch.testing.assert_close(found[2:], (goes_on * real)[2:])


def test_values_are_told_the_time() -> None:
    model = small_dof_trajectory(returns="advantage")
    batch = small_windows(model)
    early, late = (advantage_of(model).values(replace(batch, t=batch.t + t), model.inverse_normalizer) for t in (0, 3))
    assert not torch.allclose(early, late)


def test_what_is_asked_for_is_in_standard_deviations() -> None:
    model = small_dof_trajectory(returns="advantage")
    batch = small_windows(model, size=512)
    batch = replace(batch, rewards=100 * batch.rewards, transition_mask=torch.ones_like(batch.transition_mask))
    for _ in range(3):
        model.losses(batch, generator())
    z = model.diffused(batch, generator()).condition[..., 0]
    torch.testing.assert_close(z.square().mean(0), torch.ones(3))


def test_dead_agents_neither_shrink_the_unit_of_advantages_nor_hide_what_dying_costs() -> None:
    model = small_dof_trajectory(returns="advantage")
    batch = small_windows(model, size=512)
    alive = torch.ones(512, 3, batch.observations.shape[2], dtype=torch.bool)
    alive[::2, 0] = False
    there = torch.ones_like(batch.transition_mask) & alive[:, :, :-1]
    batch = replace(batch, alive=alive, transition_mask=there)
    for _ in range(3):
        model.losses(batch, generator())
    z, counts = model.diffused(batch, generator()).condition[..., 0], there[:, :, HISTORY].float()
    torch.testing.assert_close((counts * z.square()).sum(0) / counts.sum(0), torch.ones(3))
    returns = batch.return_to_go.clone()
    returns[::2, 0] += 5.0  # the team's return, which goes on without the agent
    tag = "loss/return_value"
    assert model.losses(batch, generator())[tag] != model.losses(replace(batch, return_to_go=returns), generator())[tag]


def test_an_update_before_anything_was_measured_asks_for_nothing_infinite() -> None:
    model = small_dof_trajectory(returns="advantage")
    assert bool(model.diffused(small_windows(model), generator()).condition.isfinite().all())


@pytest.mark.parametrize("learning", ["implicit", "expectile"])
def test_values_and_plans_move_only_themselves(learning: str) -> None:
    model = small_dof_trajectory(returns="advantage", value_learning=learning, **RANKED)
    batch = small_windows(model)
    losses = model.losses(batch, generator())
    of_values = [p for group in model.values.groups(1.0) for p in group.parameters()]
    of_plans = [p for part in (model.denoiser, model.inverse) for p in part.parameters()]
    plans = losses["loss/diffusion"] + losses["loss/inverse"]
    values = sum(losses[tag] for tag in ("loss/return_value", "loss/critic"))
    assert isinstance(values, Tensor)
    assert not moved(plans, of_values)
    assert not moved(values, of_plans)
    assert moved(values, of_values)
    together = torch.autograd.grad(losses["loss"], of_values, retain_graph=True, allow_unused=True)
    assert all(gradient is not None and bool(gradient.any()) for gradient in together)


def moved(loss: Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


def test_rows_that_are_not_real_teach_no_values() -> None:
    model = small_dof_trajectory(returns="advantage", **RANKED)
    batch = small_windows(model, size=64)
    before = model.losses(batch, generator())
    outside = ~batch.transition_mask
    changed = replace(
        batch,
        rewards=torch.where(outside, 7.0, batch.rewards),
        return_to_go=torch.where(outside, 9.0, batch.return_to_go),
        actions=torch.where(outside[..., None], 0.5, batch.actions),
    )
    after = model.losses(changed, generator())
    for tag in ("loss/return_value", "loss/critic", "loss/state_value", "loss/diffusion"):
        assert torch.equal(before[tag], after[tag]), tag


def test_agents_take_the_plan_whose_action_their_own_critic_rates_highest() -> None:
    model = small_dof_trajectory(history=0, **RANKED)
    randomize_weights(model)
    policy = model.policy()
    observations = torch.randn(8, 3, 4, generator=generator(3))
    noise = policy.draw_noise(8, generator(4))
    chosen, _ = policy.act_on_noise(observations, None, None, noise)
    one = small_dof_trajectory(history=0)
    one.load_state_dict(model.state_dict(), strict=False)
    each = torch.stack([one.policy().act_on_noise(observations, None, None, noise[:, :, m])[0] for m in range(5)])
    assert policy.critic is not None
    rated = torch.stack([policy.critic(model.inverse_normalizer.normalize(observations), a).amin(0) for a in each])
    assert bool((rated.std(0) > 0).all())
    best = each.gather(0, rated.argmax(0)[None, ..., None].expand(1, -1, -1, each.shape[-1]))[0]
    torch.testing.assert_close(chosen, best)


@pytest.mark.parametrize("changes", [{}, {"history": 0}, {"history": 0, "return_update": "time"}])
def test_ranking_agents_act_alone_as_they_do_together(changes: dict[str, object]) -> None:
    model = small_dof_trajectory(**RANKED, **changes)
    randomize_weights(model)
    policy = model.policy()
    observations = torch.randn(8, 3, 4, generator=generator(3))
    noise, carry = policy.draw_noise(8, generator(4)), policy.initial_carry(8, torch.device("cpu"))
    together, _ = policy.act_on_noise(observations, carry, None, noise)
    for i in range(3):
        own, alone = slice(i, i + 1), policy.export(i)
        begins = alone.initial_carry(8, torch.device("cpu"))
        action, _ = alone.act_on_noise(observations[:, own], begins, None, noise[:, own])
        torch.testing.assert_close(action, together[:, own], rtol=1e-4, atol=1e-4)


def test_discrete_plans_are_ranked_among_what_is_legal() -> None:
    model = small_dof_trajectory(small_spec((3, 3, 3), action_kind="discrete"), history=0, **RANKED)
    model.losses(small_windows(model), generator())["loss"].backward()
    legal = torch.zeros(8, 3, 3, dtype=torch.bool)
    legal[..., 1] = True
    policy = model.policy()
    actions, _ = policy.act(torch.randn(8, 3, 4, generator=generator(3)), None, legal, generator(4))
    assert bool((actions == 1).all())


def test_by_default_there_are_no_values() -> None:
    model = small_dof_trajectory()
    assert not model.values.state_dict()
    assert model.values.losses(small_windows(model), model.inverse_normalizer, generator()) == {}


def test_candidates_without_critics_are_refused() -> None:
    with pytest.raises(UserError, match="candidates=3 needs critics to rank plans: set algorithm"):
        small_dof_trajectory(candidates=3)
