"""DoF-Policy on discrete actions: one-hot vectors diffuse, and illegal actions are never chosen."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.diffusion.sampler import DDIM
from dof_lightning.networks.agentwise import clip_gradient_norm
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy
from tests.fixtures.signal_world import CHOICES, CUES, SignalEnv, best_choice, legal_choices, signal_batch, signal_spec
from tests.fixtures.small_spec import small_spec

KINDS: list[dict[str, Any]] = [
    {},
    {"critics": "separate", "selection": "softmax", "selection_temperature": 0.1},
    {"critics": "joint", "q_gradient": "full"},
    cloning(),
]
every_kind = pytest.mark.parametrize("changes", KINDS, ids=["mixed", "softmax", "joint", "cloning"])
codec = CODECS["discrete"]


def make(changes: dict[str, Any], **more: Any) -> DoFPolicy:
    return small_dof_policy(signal_spec(), **(changes | more))


def test_one_hot_vectors_round_trip_and_leave_padding_at_zero() -> None:
    mask = signal_spec().environment.action_mask()
    actions = torch.tensor([[0, 1, 3], [2, 0, 0]])
    x = codec.encode(actions, mask, like=torch.zeros(1))
    assert x[0].tolist() == [[1, -1, -1, 0], [-1, 1, 0, 0], [-1, -1, -1, 1]]
    assert torch.equal(codec.decode(x), actions)


def test_the_largest_legal_entry_is_the_action() -> None:
    mask = torch.tensor([[True, True, True, False]])
    x = torch.tensor([[[0.2, 0.9, -0.5, 0.0]]])
    legal = torch.tensor([[[True, False, True, True]]])
    assert codec.decode(codec.finish(x, mask, None)).item() == 1
    assert codec.decode(codec.finish(x, mask, legal)).item() == 0
    assert codec.decode(codec.finish(x - 2.0, mask, None)).item() == 1, "padding, at 0, is no choice"


@every_kind
def test_illegal_actions_are_never_taken_and_agents_act_alone(changes: dict[str, Any]) -> None:
    env = SignalEnv()
    policy = make(changes).policy()
    rollout = run_rollout(policy, env, evaluation_seeds(0, "report", 64), (0, "report"))  # raises where illegal
    assert rollout.returns.shape == (64,)
    assert certify(policy, env, seed=0).passed


@every_kind
def test_exported_agents_act_as_the_batched_policy(changes: dict[str, Any]) -> None:
    policy = make(changes).policy()
    cues = torch.randint(CUES, (40, 3), generator=generator())
    observations, legal = torch.nn.functional.one_hot(cues, CUES).float(), legal_choices(cues)
    noise = policy.draw_noise(40, generator(1))
    together, _ = policy.act_on_noise(observations, None, legal, noise)
    assert together.dtype == torch.int64
    assert together.shape == (40, 3)
    assert together.unique().numel() > 1
    for i in range(3):
        own = slice(i, i + 1)
        alone, _ = policy.export(i).act_on_noise(observations[:, own], None, legal[:, own], noise[:, own])
        assert torch.equal(alone, together[:, own])


def test_critics_see_legal_one_hot_vectors_in_targets_and_soft_ones_where_the_gradient_is_taken() -> None:
    model = small_dof_policy(small_spec(CHOICES, action_kind="discrete"))
    batch = small_batch(model.spec)
    assert batch.legal is not None
    seen = model._experience(batch, *model._current(batch), Assignment(), generator(1))
    following, actions = seen.following, seen.next_actions()
    assert following.legal is not None
    assert torch.equal(actions.amax(-1), torch.ones(32, 3))
    assert bool(following.legal.gather(-1, actions.argmax(-1, keepdim=True)).all())
    now, x0 = model._current(batch)
    soft = codec.relax(model.denoise(x0, now.condition, generator()).x0, model.data_mask, now.legal)
    illegal = model.data_mask & ~batch.legal[:, :, 0]
    assert bool((soft[illegal] == -1).all())
    assert bool((soft[batch.legal[:, :, 0] & model.data_mask].abs() < 1).any())
    assert bool((soft[~model.data_mask.expand_as(soft)] == 0).all())


def test_what_is_illegal_gets_no_gradient_of_q() -> None:
    model = small_dof_policy(small_spec(CHOICES, action_kind="discrete"))
    batch = small_batch(model.spec)
    now, x0 = model._current(batch)
    estimate = 0.5 * x0.clone()
    estimate.requires_grad_()
    assert model.critic is not None
    (gradient,) = torch.autograd.grad(model._judge(model.critic, now)(estimate).sum(), estimate)
    assert now.legal is not None
    assert bool((gradient[model.data_mask & ~now.legal] == 0).all())
    assert bool((gradient[model.data_mask & now.legal] != 0).all())


@every_kind
def test_dead_agents_enter_no_loss(changes: dict[str, Any]) -> None:
    model = make(changes)
    batch = signal_batch(32, 0, share_best=0.5)
    batch.terminated[:] = False
    batch.alive = torch.ones(32, 3, 2, dtype=torch.bool)
    batch.alive[:, 2] = False
    batch.transition_mask = batch.transition_mask & batch.alive[:, :, :1]
    before = model.losses(batch, generator())["loss"].detach()
    batch.actions[:, 2], batch.observations[:, 2] = 1, 5.0
    if model.critic is None or not model.critic.online.of_team:  # a team's reward is the mean over all agents
        batch.rewards[:, 2] = 7.0
    torch.testing.assert_close(model.losses(batch, generator())["loss"].detach(), before)
    batch.actions[:, 1] = 1 - batch.actions[:, 1]
    assert not torch.allclose(model.losses(batch, generator())["loss"].detach(), before)


def test_an_agent_without_a_legal_choice_is_not_nan_to_conservative_critics() -> None:
    """Imported data may have masks of zeros behind an agent's death."""
    like, mask = torch.zeros(2, 3, 4), torch.ones(3, 4, dtype=torch.bool)
    legal = torch.ones(2, 3, 4, dtype=torch.bool)
    legal[0, 1] = False
    drawn, log_size = CODECS["discrete"].draw_anywhere(5, like, mask, legal, generator())
    assert bool(drawn.isfinite().all())
    assert bool(log_size.isfinite().all())


def train(model: DoFPolicy, steps: int, share_best: float) -> None:
    optimizer = model.configure_optimizers()
    for step in range(steps):
        optimizer.zero_grad()
        model.losses(signal_batch(128, step, share_best), generator(step))["loss"].backward()
        for group in model.parameter_groups():
            clip_gradient_norm(group.modules, group.clip)
        optimizer.step()
        model.after_step()


def share_of_best(model: DoFPolicy) -> Tensor:
    """The share of best choices `[N]`, over random decisions of the policy."""
    cues = torch.randint(CUES, (500, 3), generator=generator(1))
    observations = torch.nn.functional.one_hot(cues, CUES).float()
    actions, _ = model.policy().act(observations, None, legal_choices(cues), generator(2))
    return (actions == best_choice(cues)).float().mean(0)


LEARNER: dict[str, Any] = {
    "denoiser": partial(MLPDenoiser, hidden=(64, 64), activation="silu"),
    "critic": partial(AgentwiseCritic, hidden=(32, 32), activation="silu"),
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "critic_gradient_clip": None,
    "ema_decay": 0.95,
}


def test_cloning_learns_a_discrete_behaviour_by_its_probabilities() -> None:
    """The behaviour takes the best choice with probability 0.6 + 0.4 / (legal choices)."""
    model = make(cloning(), **LEARNER)
    train(model, 300, share_best=0.6)
    legal = torch.tensor([2.0, 2.0, 3.0])
    assert (share_of_best(model) - (0.6 + 0.4 / legal)).abs().max() < 0.12


@pytest.mark.parametrize("q_gradient", ["one_step", "full"])
def test_the_gradient_of_q_finds_what_random_behaviour_takes_by_chance(q_gradient: str) -> None:
    changes = {"critics": "separate", "q_gradient": q_gradient, "q_weight": 5.0, "candidates": 1}
    model = make(changes, **LEARNER, sampler=partial(DDIM, steps=2))
    train(model, 150, share_best=0.0)
    assert share_of_best(model).min() > 0.75  # the behaviour: 1/2, 1/2 and 1/3
