"""The learning of critics: the conservative gap, values of the data's actions only, an expectile, advantages."""

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.algorithms.parts.value_learning import (
    Conservative,
    Expectile,
)
from dof_lightning.factorization import value
from tests.fixtures.policy_models import generator
from tests.fixtures.seam_models import CRITICS, LEARNING, batch_for, gradient, losses, make, of_critics
from tests.fixtures.small_spec import small_spec


@pytest.mark.parametrize("critics", CRITICS)
@pytest.mark.parametrize("learning", list(LEARNING))
def test_gradient_of_the_critics_equals_finite_differences(critics: str, learning: str) -> None:
    model = make(learning, "best_of", critics=critics, value_mixer=value.Monotone)
    batch, critic = batch_for(model), model.critic
    assert critic is not None
    parameters = list(critic.online.parameters())
    analytic = gradient(of_critics(model, losses(model, batch)), critic.online)
    start = parameters_to_vector(parameters).detach().clone()
    direction = torch.randn(start.shape, generator=generator(6), dtype=torch.float64)
    head = torch.cat(
        [torch.full((p.numel(),), name.startswith("critic.")) for name, p in critic.online.named_parameters()]
    )
    if critics == "joint":  # the heads follow the joint values, which they hold constant
        direction[head] = 0.0
    ends = []
    for sign in (1, -1):
        vector_to_parameters(start + sign * 1e-6 * direction, parameters)
        found = losses(model, batch)
        ends.append(sum(found[tag] for tag in ("loss/critic", "loss/penalty") if tag in found).detach())
    difference = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(analytic @ direction, difference, rtol=1e-5, atol=1e-7)


def test_the_gap_of_a_sum_is_that_of_the_agents_own_values() -> None:
    """Each agent deviates alone, so the others' values cancel out."""
    gaps = []
    for critics in ("separate", "mixed"):
        model = make("conservative", critics=critics, value_mixer=value.Sum)
        batch, rule = batch_for(model), model.value_learning
        now, x0 = model._current(batch)
        assert isinstance(rule, Conservative)
        assert model.critic is not None
        gaps.append(rule.gap(model.critic, now, x0, torch.ones(16, 3, dtype=torch.float64), generator(1)))
    torch.testing.assert_close(*gaps)


@pytest.mark.parametrize("critics", CRITICS)
def test_the_gap_over_choices_is_the_exact_one(critics: str) -> None:
    spec = small_spec((3, 2, 4), action_kind="discrete", state_dim=5)
    model = make("conservative", critics=critics, spec=spec, conservative_samples=4000)
    batch, rule, critic = batch_for(model, 4), model.value_learning, model.critic
    now, x0 = model._current(batch)
    assert isinstance(rule, Conservative)
    assert critic is not None
    with torch.no_grad():
        for parameter in list(critic.online.parameters()):
            parameter.mul_(2.0)  # values that differ
        weight = torch.zeros(4, 3, dtype=torch.float64)
        weight[0, 2] = 1.0  # one agent in one row
        sampled = rule.gap(critic, now, x0, weight, generator(1)) * weight.numel()
        assert now.legal is not None
        choices = [a for a in range(4) if bool(now.legal[0, 2, a])]
        each = []
        for choice in choices:
            actions = x0.clone()
            actions[0, 2] = -1.0
            actions[0, 2, choice] = 1.0
            each.append(critic.online(now, actions)[:, 0, -1])
        exact = (torch.stack(each).logsumexp(0) - critic.online(now, x0)[:, 0, -1]).sum()
    torch.testing.assert_close(sampled, exact, rtol=0.03, atol=0.03)


def test_separate_advantages_are_the_agents_own() -> None:
    """Q_i(o_i, a_i) less the mean of Q_i over what the actor does: written out by the agents' own critics."""
    model = make("td", "weighted", critics="separate")
    (now, x0), critic = model._current(batch_for(model)), model.critic
    assert critic is not None
    drawn = torch.rand(5, *x0.shape, generator=generator(1), dtype=torch.float64) * 2 - 1
    found = model.value_learning.advantage(critic, now, x0, lambda: drawn)
    own = critic.target.critic
    expected = own(now.condition, x0).amin(0) - torch.stack([own(now.condition, a).amin(0) for a in drawn]).mean(0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("critics", CRITICS)
def test_the_expectile_is_learned(critics: str) -> None:
    """V at tau 0.5 is the mean of Q over the data's actions, at 0.9 above it: one observation, many actions."""
    found = {}
    for tau in (0.5, 0.9):
        model = make("expectile", "best_of", critics=critics, expectile=tau, critic_learning_rate=1e-2)
        batch = batch_for(model, 64)
        batch.observations[:] = batch.observations[:1, :, :1]
        batch.state[:] = batch.state[:1, :1]  # type: ignore[index]
        rule, critic = model.value_learning, model.critic
        assert isinstance(rule, Expectile)
        assert critic is not None
        for parameter in critic.target.parameters():
            parameter.mul_(2.0)
        seen = model._experience(batch, *model._current(batch), Assignment(), generator(1))
        optimizer = torch.optim.Adam(rule.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            rule.losses(critic, seen, generator(2))["loss/state_value"].backward()
            optimizer.step()
        quality = critic.next_values(seen.now, seen.data).amin(0)
        found[tau] = ((rule._of(seen.now, seen.data).mean(0) - quality.mean(0)) / quality.std(0)).detach().mean()
    assert abs(float(found[0.5])) < 0.1
    assert float(found[0.9]) > 0.4


def test_in_sample_values_never_ask_the_actors() -> None:
    for learning in ("implicit", "expectile"):
        model = make(learning, "best_of")
        seen = model._experience(batch_for(model), *model._current(batch_for(model)), Assignment(), generator(1))
        never = replace(seen, next_actions=lambda: pytest.fail("asked for the actors' actions"))
        assert model.critic is not None
        assert bool(model.value_learning.losses(model.critic, never, generator(1))["loss/critic"].isfinite())
