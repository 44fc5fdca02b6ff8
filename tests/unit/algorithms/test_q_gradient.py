"""The gradient of Q through the whole reverse chain, and through critics of every kind and actions of both."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.diffusion import sampler
from dof_lightning.factorization import data
from dof_lightning.networks.agentwise import agentwise_parameters
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.spec import DatasetSpec
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec

ROUTES = ["one_step", "full"]
CRITICS = ["separate", "mixed", "joint"]
CHAINS = [partial(sampler.DDIM, steps=3), sampler.DDPM]


def make(route: str, critics: str, spec: DatasetSpec | None = None, **changes: Any) -> DoFPolicy:
    """Makes a model in float64, with the clip's kinks out of reach."""
    settings = {"q_gradient": route, "critics": critics} | changes
    model = small_dof_policy(spec or small_spec(state_dim=5), **settings).double()
    model.clip_range = 1e6
    return model


def value_loss(model: DoFPolicy, scale: Tensor | None = None) -> Tensor:
    """L_q at fixed noise; with `scale`, the formula written out again with |Q| held there."""
    batch = small_batch(model.spec, dtype=torch.float64)
    now, x0 = model._current(batch)
    critic, draws = model.critic, generator(3)
    assert critic is not None
    if scale is None:
        told = Assignment()
        proposal = model._propose(model.denoise(x0, now.condition, draws), now, generator(3), told)
        assert proposal is not None
        return model.q_gradient.losses(model._judge(critic, now), proposal)[1]["loss/q"]
    if model.settings.q_gradient == "full":
        noise = model._chain_noise(model.sampler, now.condition, draws)
        actions, _ = model.learning_sample(now.condition, noise, model.sampler)
        weight = torch.ones(1, dtype=torch.float64)
    else:
        denoised = model.denoise(x0, now.condition, draws)
        actions = model.data_factorization.join(denoised.x0)
        weight = model.schedule.snr(denoised.k, like=x0[:, :, 0]).clamp(max=1.0)
    if now.legal is not None:
        actions = torch.where(model.data_mask & ~now.legal, -1.0, actions)
    values = critic.frozen_values(now, actions)
    return -((weight * values).mean(0) / scale).mean() if scale.numel() else values.detach().abs().mean(0)


def assert_equals_finite_differences(model: DoFPolicy, part: str = "denoiser") -> None:
    parameters = list(getattr(model, part).parameters())
    analytic = parameters_to_vector(torch.autograd.grad(value_loss(model), parameters))
    assert analytic.abs().max() > 1e-6
    scale = value_loss(model, torch.zeros(0))
    start = parameters_to_vector(parameters).detach()
    direction = torch.randn(start.shape, generator=generator(4), dtype=torch.float64)
    width, ends = 1e-6, []
    for sign in (1, -1):
        vector_to_parameters(start + sign * width * direction, parameters)
        ends.append(value_loss(model, scale).detach())
    vector_to_parameters(start, parameters)
    torch.testing.assert_close(analytic @ direction, (ends[0] - ends[1]) / (2 * width), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("chain", CHAINS, ids=["ddim", "ddpm"])
@pytest.mark.parametrize("critics", CRITICS)
@pytest.mark.parametrize("part", ["denoiser", "data_factorization"])
def test_full_gradient_equals_finite_differences(critics: str, part: str, chain: Any) -> None:
    model = make("full", critics, sampler=chain, noise_factorization=data.Concat)
    assert_equals_finite_differences(model, part)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("critics", CRITICS)
def test_discrete_actions_gradient_equals_finite_differences(critics: str, route: str) -> None:
    spec = small_spec((3, 2, 4), action_kind="discrete", state_dim=5)
    assert_equals_finite_differences(make(route, critics, spec))


@pytest.mark.parametrize("sharing", ["independent", "shared"])
@pytest.mark.parametrize("critics", CRITICS)
def test_full_gradient_reaches_every_denoiser_parameter_and_no_critic(critics: str, sharing: str) -> None:
    embedding = {"agent_embedding": 3} if sharing == "shared" else {}
    denoiser = partial(MLPDenoiser, hidden=(16, 16), sharing=sharing, **embedding)
    model = make("full", critics, denoiser=denoiser)
    value_loss(model).backward()
    own, others = agentwise_parameters(model.denoiser)
    for parameter in own:
        assert parameter.grad is not None
        assert bool((parameter.grad.flatten(1) != 0).any(1).all()), "an agent's slice was not reached"
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in others)
    assert model.critic is not None
    assert all(p.grad is None for p in model.critic.parameters())
    assert all(p.grad is None for p in model.average_denoiser.parameters())


def test_the_chain_that_learns_is_the_chain_that_acts() -> None:
    """Both chains give the same actions for equal weights and the same noise."""
    model = small_dof_policy(q_gradient="full", candidates=1)
    observations, policy = torch.randn(9, 3, 4, generator=generator()), model.policy()
    noise = policy.draw_noise(9, generator(1))
    acted, _ = policy.act_on_noise(observations, None, None, noise)
    condition = model.normalizer.normalize(observations)
    learned, _ = model.learning_sample(condition, noise[:, :, 0].permute(2, 0, 1, 3), model.sampler)
    torch.testing.assert_close(learned, acted)


def test_saturated_chains_can_be_pulled_back() -> None:
    """Within the clip's range only; a plain clamp in the chain would leave what is saturated where it is for ever."""
    model = small_dof_policy(q_gradient="full", sampler=partial(sampler.DDIM, steps=1))
    condition = torch.randn(16, 3, 4, generator=generator())
    last = model.denoiser.network.layers[-1]
    last.bias.data.fill_(-50.0)  # every estimate is far above 1
    noise = model._chain_noise(model.sampler, condition, generator(1))
    actions, _ = model.learning_sample(condition, noise, model.sampler)
    assert bool((actions[:, 0] == 1).all())
    (down,) = torch.autograd.grad(actions.sum(), last.bias, retain_graph=True)
    (up,) = torch.autograd.grad(-actions.sum(), last.bias)
    assert bool((down[0] != 0).all())
    assert bool((up == 0).all())


@pytest.mark.parametrize("route", ROUTES)
def test_gradient_of_q_is_part_of_the_loss(route: str) -> None:
    model = small_dof_policy(q_gradient=route, q_weight=2.0)
    losses = model.losses(small_batch(model.spec), generator())
    parts = losses["loss/diffusion"] + 0.1 * losses["loss/reconstruction"] + losses["loss/critic"]
    torch.testing.assert_close(losses["loss"], parts + 2.0 * losses["loss/q"])
    gradients = torch.autograd.grad(losses["loss/q"], list(model.denoiser.parameters()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)
