"""DoF-Policy: the gradient of Q reaches the actors, targets are right, agents act alone."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.critics import Situation, TeamCritic
from dof_lightning.algorithms.parts.extraction import Proposal
from dof_lightning.diffusion import sampler
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, value
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.rollout.certificate import certify
from dof_lightning.spec import DatasetSpec
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.toy_world import ToyEnv


def critic_of(model: DoFPolicy) -> TeamCritic:
    assert model.critic is not None
    return model.critic


def loss_of(model: DoFPolicy, proposal: Proposal, now: Situation) -> torch.Tensor:
    return model.q_gradient.losses(model._judge(critic_of(model), now), proposal)[1]["loss/q"]


def q_loss(model: DoFPolicy, scale: torch.Tensor | None = None) -> torch.Tensor:
    """L_q at fixed noise; with `scale`, the same formula written out again with |Q| held at that value."""
    batch = small_batch(model.spec, dtype=torch.float64)
    now, x0 = model._current(batch)
    denoised = model.denoise(x0, now.condition, generator(3))
    if scale is None:
        return loss_of(model, model.one_step(denoised), now)
    values = critic_of(model).frozen_values(now, model.data_factorization.join(denoised.x0))
    alpha_bar = model.schedule.alpha_bars[denoised.k][:, None]
    weight = (alpha_bar / (1 - alpha_bar)).clamp(max=1.0)
    return -((weight * values).mean(0) / scale).mean()


@pytest.mark.parametrize("critics", ["separate", "mixed", "joint"])
@pytest.mark.parametrize("part", ["denoiser", "data_factorization"])
def test_gradient_of_q_equals_finite_differences(critics: str, part: str) -> None:
    """The released code detached it twice. |Q| is held fixed and the clip is out of reach."""
    model = small_dof_policy(critics=critics, noise_factorization=data.Concat).double()
    model.clip_range = 1e6
    module = getattr(model, part)
    parameters = list(module.parameters())
    analytic = parameters_to_vector(torch.autograd.grad(q_loss(model), parameters))
    assert analytic.abs().max() > 1e-6

    batch = small_batch(model.spec, dtype=torch.float64)
    now, x0 = model._current(batch)
    actions = model.data_factorization.join(model.denoise(x0, now.condition, generator(3)).x0)
    scale = critic_of(model).frozen_values(now, actions).detach().abs().mean(0)
    start = parameters_to_vector(parameters).detach()
    direction = torch.randn(start.shape, generator=generator(4), dtype=torch.float64)
    width = 1e-6
    ends = []
    for sign in (1, -1):
        vector_to_parameters(start + sign * width * direction, parameters)
        ends.append(q_loss(model, scale).detach())
    difference = (ends[0] - ends[1]) / (2 * width)
    torch.testing.assert_close(analytic @ direction, difference, rtol=1e-5, atol=1e-9)


def test_gradient_of_q_reaches_h_by_real_action_dimensions_only() -> None:
    """Critics have only seen zeros where an agent's action is padded."""
    model = small_dof_policy(data_factorization=data.Attention, execution="centralized")
    torch.nn.init.normal_(model.data_factorization.attention.out.bias, generator=generator())
    now, x0 = model._current(small_batch(model.spec))
    actions = model.one_step(model.denoise(x0, now.condition, generator(3))).actions
    padded = ~model.data_mask.expand_as(actions)
    assert bool(padded.any())
    assert not bool(actions[padded].any())
    assert bool(actions[~padded].any())


class _ByCondition(data.Concat):
    """h(x) = x + a linear function of the conditioning."""

    local_execution = False

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__(spec)
        self.layer = torch.nn.Linear(4, spec.action_dim)

    def join(self, parts: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        return parts if condition is None else parts + self.layer(condition)


def test_an_h_that_reads_the_condition_learns_from_it() -> None:
    model = small_dof_policy(data_factorization=_ByCondition, execution="centralized", q_weight=0.0)
    model.losses(small_batch(model.spec), generator())["loss"].backward()
    assert bool(model.data_factorization.layer.weight.grad.any())
    without_cloning = small_dof_policy(data_factorization=_ByCondition, execution="centralized")
    q_loss(without_cloning.double()).backward()
    assert bool(without_cloning.data_factorization.layer.weight.grad.any())


def test_gradient_of_q_leaves_the_critics_alone() -> None:
    model = small_dof_policy().double()
    q_loss(model).backward()
    assert all(p.grad is None for p in critic_of(model).parameters())
    assert all(p.grad is not None for p in model.denoiser.parameters())


def test_gradient_of_q_is_part_of_the_actors_loss() -> None:
    """One step along the actor's whole gradient raises Q more with a large eta than with none."""
    raised = []
    for weight in (0.0, 2.0):
        model = small_dof_policy(q_weight=weight).double()
        before = q_loss(model).detach()
        losses = model.losses(small_batch(model.spec, dtype=torch.float64), generator(3))
        gradients = torch.autograd.grad(losses["loss"], list(model.denoiser.parameters()))
        for parameter, gradient in zip(model.denoiser.parameters(), gradients, strict=True):
            parameter.data -= 0.05 * gradient
        raised.append(before - q_loss(model).detach())
    assert raised[1] > raised[0]


def test_small_estimates_at_noisy_steps_count_less() -> None:
    """If SNR_k < 1, a sample's share of L_q is SNR_k: at the last step nearly nothing."""
    model = small_dof_policy().double()
    batch = small_batch(model.spec, dtype=torch.float64)
    now, x0 = model._current(batch)
    noised = model.denoise(x0, now.condition, generator(3))
    estimate = noised.x0.detach().requires_grad_()
    changed = replace(noised, x0=estimate)
    (gradient,) = torch.autograd.grad(loss_of(model, model.one_step(changed), now), estimate)
    size = gradient.abs().sum((1, 2))
    assert size[noised.k == 10].mean() < 0.05 * size[noised.k <= 2].mean()


def test_mixed_values_rank_as_the_agents_own() -> None:
    """IGM: whoever raises its own Q_i raises Q_tot, so ranking candidates locally is sound."""
    model = small_dof_policy(value_mixer=value.Monotone)
    critic = critic_of(model)
    condition = torch.randn(50, 3, 4, generator=generator())
    actions = torch.rand(2, 50, 3, 2, generator=generator(1)) * 2 - 1
    own = critic.online.critic(condition, actions[0]), critic.online.critic(condition, actions[1])
    better = torch.where((own[0][0] > own[1][0])[..., None], actions[0], actions[1])
    situation = Situation(condition)
    best = critic.online(situation, better)[0]
    assert (best >= critic.online(situation, actions[0])[0] - 1e-6).all()
    assert (best >= critic.online(situation, actions[1])[0] - 1e-6).all()


def test_the_best_candidate_by_the_agents_own_critic_is_taken() -> None:
    """The released code drew 50 candidates and took one at random."""
    model = small_dof_policy(candidates=6)
    policy = model.policy()
    observations = torch.randn(9, 3, 4, generator=generator())
    draws = policy.draw_noise(9, generator(1))
    chosen, _ = policy.act_on_noise(observations, None, None, draws)
    condition = model.normalizer.normalize(observations)
    samples = torch.stack([model.local_sample(condition, draws[:, :, m].permute(2, 0, 1, 3)) for m in range(6)])
    samples = samples.clamp(-1, 1)
    values = torch.stack([critic_of(model).target.critic(condition, one).amin(0) for one in samples])
    for episode in range(9):
        for agent in range(3):
            best = samples[values[:, episode, agent].argmax(), episode, agent]
            torch.testing.assert_close(chosen[episode, agent], best)


@pytest.mark.parametrize("changes", [{}, {"critics": "separate"}, cloning(), {"candidates": 1}])
def test_agents_act_alone(changes: dict[str, Any]) -> None:
    """The certificate, and one exported file per agent: the same actions on the same noise."""
    env = ToyEnv()
    model = small_dof_policy(small_spec(action_dims=(2, 2, 2)), **changes)
    policy = model.policy()
    assert certify(policy, env, seed=0).passed
    observations = torch.randn(8, 3, 4, generator=generator())
    draws = policy.draw_noise(8, generator(1))
    together, _ = policy.act_on_noise(observations, None, None, draws)
    for i in range(3):
        alone = policy.export(i)
        actions, _ = alone.act_on_noise(observations[:, i : i + 1], None, None, draws[:, i : i + 1])
        torch.testing.assert_close(actions, together[:, i : i + 1])
        assert sum(p.numel() for p in alone.parameters()) < 0.5 * sum(p.numel() for p in policy.parameters())


def test_padded_actions_stay_zero() -> None:
    model = small_dof_policy()
    policy = model.policy()
    actions, _ = policy.act(torch.randn(8, 3, 4, generator=generator()), None, None, generator(1))
    assert actions[:, 1, 1].abs().max() == 0
    assert actions[:, 0].abs().min() > 0


@pytest.mark.slow
def test_cloning_learns_a_two_moded_behaviour() -> None:
    """A Gaussian could not do this: each agent's data are +-0.7, and both modes are sampled."""
    spec = small_spec(action_dims=(1, 1, 1))
    model = small_dof_policy(
        spec, **cloning(denoiser=partial(MLPDenoiser, hidden=(64, 64)), learning_rate=3e-3, ema_decay=0.99)
    )
    optimizer = model.configure_optimizers()
    for step in range(2500):
        batch = small_batch(spec, size=128, seed=step)
        batch.actions = torch.where(batch.actions > 0, 0.7, -0.7)
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        optimizer.step()
        model.after_step()
    observations = torch.randn(300, 3, 4, generator=generator(1))
    actions, _ = model.policy().act(observations, None, None, generator(2))
    assert ((actions.abs() - 0.7).abs() < 0.25).float().mean() > 0.85
    assert 0.25 < (actions > 0).float().mean() < 0.75


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (cloning(data_factorization=data.WConcat), "data_factorization would get no gradient"),
        (
            {"q_weight": 0.0, "reconstruction_weight": 0.0},
            r"data_factorization would get no gradient: .*algorithm\.q_weight above 0, or",
        ),
        ({"target_sampler": partial(sampler.DDIM, steps=11)}, r"algorithm\.target_sampler\.steps=11 must be between"),
        (cloning(q_gradient="one_step"), "algorithm.q_gradient=one_step needs"),
        (cloning(candidates=5), "candidates"),
        (cloning(advantage_temperature=1.0), r"advantage_temperature=1.0 .* set algorithm.critics="),
        ({"expectile": 1.0}, r"algorithm.expectile=1.0 must be above 0 and below 1"),
        ({"q_balance": 0.0}, r"algorithm.q_balance=0.0 must be above 0, or null"),
        ({"candidates": 0}, "candidates=0"),
        ({"observation_normalizer": "whiten"}, "whiten"),
        ({"q_gradient": "one-step"}, r"q_gradient=one-step.*one_step"),
        ({"critics": "mixd"}, r"critics=mixd.*mixed"),
        (cloning(q_gradient="full"), "algorithm.q_gradient=full needs"),
        ({"critics": "joint", "local_head": False}, r"candidates=4 .*local_head=true or algorithm.candidates=1"),
        ({"selection": "best"}, r"selection=best.*argmax, softmax"),
        ({"selection_temperature": 0.0}, r"selection_temperature=0.0 must be above 0"),
        ({"ema_decay": 1.5}, "ema_decay"),
        ({"discount": -3.0}, "discount"),
        ({"target_update_rate": 2.0}, "target_update_rate"),
    ],
)
def test_contradictory_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small_dof_policy(**changes)
