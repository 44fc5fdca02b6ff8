"""One Q of the joint action, and the heads by which agents rank their own candidates."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.critics import CentralCritic, Situation, TeamCritic
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization import value
from dof_lightning.networks.critic import AgentwiseCritic, JointCritic
from dof_lightning.rollout.certificate import certify
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.toy_world import ToyEnv

SCALE = 0.37


def make(state_dim: int = 5, **changes: Any) -> tuple[DoFPolicy, TeamCritic, EpisodeBatch]:
    model = small_dof_policy(small_spec(state_dim=state_dim), critics="joint", reward_scale=SCALE, **changes)
    assert model.critic is not None
    return model, model.critic, small_batch(model.spec)


def central(critic: TeamCritic) -> CentralCritic:
    assert isinstance(critic.online, CentralCritic)
    return critic.online


def reads(critic: TeamCritic, now: Situation, actions: Tensor) -> set[str]:
    """The inputs that the joint value depends on."""
    inputs = {"condition": now.condition, "actions": actions}
    if now.state is not None:
        inputs["state"] = now.state
    inputs = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    values = critic.online(Situation(inputs["condition"], state=inputs.get("state")), inputs["actions"])
    gradients = torch.autograd.grad(values.sum(), list(inputs.values()), allow_unused=True)
    return {name for name, g in zip(inputs, gradients, strict=True) if g is not None and bool((g != 0).any())}


def test_it_reads_the_state_where_there_is_one_else_all_observations() -> None:
    model, critic, batch = make()
    now, x0 = model._current(batch)
    assert reads(critic, now, x0) == {"actions", "state"}
    model, critic, batch = make(state_dim=0)
    now, x0 = model._current(batch)
    assert reads(critic, now, x0) == {"condition", "actions"}


def test_it_can_value_what_no_sum_of_the_agents_values_can() -> None:
    """Reward 1 only if the first two agents agree: a joint critic learns it, a sum of Q_i cannot."""
    errors = {}
    for critics in ("joint", "mixed"):
        model = small_dof_policy(small_spec((1, 1, 1)), critics=critics, value_mixer=value.Sum)
        assert model.critic is not None
        optimizer = torch.optim.Adam(model.critic.online.parameters(), lr=1e-2)
        for step in range(200):
            batch = small_batch(model.spec, size=64, seed=step)
            batch.actions = batch.actions.sign()
            batch.terminated[:] = True
            batch.rewards = (batch.actions[:, :1] == batch.actions[:, 1:2]).float()[..., 0].expand(-1, 3, -1)
            now, actions = model._current(batch)
            loss = model.critic.losses(batch, now, actions, now, actions)["loss/critic"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[critics] = float(loss.detach()) / 2
    assert errors["joint"] < 0.1
    assert errors["mixed"] > 0.2


def test_targets_are_the_team_reward_plus_the_joint_value_of_the_next_row() -> None:
    model, critic, batch = make()
    layer = critic.target.joint.network.layers[-1]
    layer.weight.data.zero_()
    layer.bias.data.copy_(torch.tensor([5.0, 3.0]).view(2, 1, 1))
    now, _ = model._current(batch)
    seen = model._experience(batch, *model._current(batch), Assignment(), generator(5))
    target = critic._target(batch, now, critic.next_values(seen.following, seen.next_actions()))
    team = SCALE * batch.rewards[:, :, 0].mean(1, keepdim=True)
    torch.testing.assert_close(target, team + 0.9 * (1 - batch.terminated.float()) * 3.0)


def test_the_heads_loss_reaches_the_head_only() -> None:
    model, critic, batch = make()
    losses = model.losses(batch, generator())
    losses["loss/local_head"].backward()
    head = central(critic).critic
    assert head is not None
    reached = {name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert reached == {f"critic.online.critic.{name}" for name, _ in head.named_parameters()}
    parts = losses["loss/diffusion"] + 0.1 * losses["loss/reconstruction"] + losses["loss/critic"]
    torch.testing.assert_close(losses["loss"], parts + losses["loss/local_head"] + 0.5 * losses["loss/q"])


def test_the_head_ranks_as_the_joint_value_does_in_the_mean_over_teammates() -> None:
    model, critic, _ = make(state_dim=0, critic=partial(AgentwiseCritic, hidden=(64, 64)))
    values = central(critic)
    for parameter in values.joint.parameters():
        parameter.data *= 3.0  # a landscape with some relief
    assert values.critic is not None
    optimizer = torch.optim.Adam(values.critic.parameters(), lr=1e-2)
    for step in range(200):
        batch = small_batch(model.spec, size=128, seed=step)
        now, actions = model._current(batch)
        loss = values.head_loss(now, actions, values(now, actions), torch.ones(128, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    now, actions = model._current(small_batch(model.spec, size=500, seed=1000))
    fixed = Situation(now.condition.clone())
    fixed.condition[:, 0] = fixed.condition[:1, 0]  # agent 0 sees one thing, the others whatever they see
    candidates = actions[:20, 0]
    means = []
    for candidate in candidates:
        taken = actions.clone()
        taken[:, 0] = candidate
        means.append(values(fixed, taken)[0].mean())
    condition = fixed.condition[:20].clone()
    own = values.critic(condition, actions[:20])[0, :, 0]
    correlation = torch.corrcoef(torch.stack([torch.stack(means), own]))[0, 1]
    assert correlation > 0.8


@pytest.mark.parametrize("gone", ["no transition", "ended"])
def test_rows_that_do_not_count_leave_the_head_alone(gone: str) -> None:
    model, _, batch = make()
    before = model.losses(batch, generator())["loss/local_head"].detach()
    if gone == "no transition":
        batch.transition_mask[:] = False
        assert model.losses(batch, generator())["loss/local_head"].detach() == 0
        return
    assert batch.state is not None
    ended = batch.terminated[:, 0]
    batch.state[ended, 1] += 9.0
    torch.testing.assert_close(model.losses(batch, generator())["loss/local_head"].detach(), before)
    batch.state[~ended, 1] += 9.0
    assert not torch.allclose(model.losses(batch, generator())["loss/local_head"].detach(), before)


@pytest.mark.parametrize("changes", [{}, {"local_head": False, "candidates": 1}])
def test_agents_act_alone_by_their_heads(changes: dict[str, Any]) -> None:
    model = small_dof_policy(small_spec((2, 2, 2)), critics="joint", **changes)
    policy = model.policy()
    assert certify(policy, ToyEnv(), seed=0).passed
    assert (policy.critic is None) == bool(changes)
    assert not any(isinstance(part, JointCritic) for part in policy.export(0).modules())
