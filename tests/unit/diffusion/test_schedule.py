import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from dof_lightning.diffusion import schedule as schedules
from dof_lightning.errors import UserError
from dof_lightning.seeding import make_generator

FACTORIES = [schedules.vp, schedules.cosine, schedules.linear]


def normal(*shape, dtype=torch.float32, key="x"):
    return torch.randn(*shape, dtype=dtype, generator=make_generator("schedule", key))


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("steps", [5, 10, 100, 200])
def test_signal_falls_from_one_to_noise(factory, steps):
    schedule = factory(steps=steps)
    alpha_bars = schedule.alpha_bars
    assert schedule.steps == steps
    assert alpha_bars[0] == 1
    assert (alpha_bars.diff() < 0).all()
    assert 0 < alpha_bars[-1].sqrt() <= 0.1
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()


def test_vp_matches_its_closed_form():
    # The exponents telescope: sum of beta_min/K + (beta_max-beta_min)(2k-1)/(2K^2) over k = 1..j.
    steps, low, high = 10, 0.1, 10.0
    j = torch.arange(steps + 1, dtype=torch.float64)
    expected = torch.exp(-low * j / steps - 0.5 * (high - low) * j**2 / steps**2)
    torch.testing.assert_close(schedules.vp(steps, low, high).alpha_bars, expected, rtol=1e-12, atol=0)
    assert math.sqrt(expected[-1]) == pytest.approx(0.08, abs=1e-3)


def test_cosine_matches_diffusers():
    theirs = DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(schedules.cosine(50).betas.float(), theirs.betas, rtol=1e-5, atol=1e-7)


def test_linear_with_a_thousand_steps_is_the_original():
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=2e-2)
    torch.testing.assert_close(schedules.linear(1000).betas.float(), theirs.betas, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("factory", FACTORIES)
def test_add_noise_matches_diffusers(factory):
    schedule = factory(20)
    theirs = DDPMScheduler(num_train_timesteps=20, trained_betas=schedule.betas.numpy())
    x0, noise, k = normal(20, 3, 2), normal(20, 3, 2, key="noise"), torch.arange(1, 21)
    expected = theirs.add_noise(x0, noise, k - 1)
    torch.testing.assert_close(schedule.add_noise(x0, noise, k), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_predict_x0_inverts_add_noise(factory):
    schedule = factory(20)
    k = torch.arange(0, 21)
    x0 = normal(21, 2, 4, 3, dtype=torch.float64)
    noise = normal(21, 2, 4, 3, dtype=torch.float64, key="noise")
    x_k = schedule.add_noise(x0, noise, k)
    torch.testing.assert_close(x_k[0], x0[0], rtol=0, atol=0)
    torch.testing.assert_close(schedule.predict_x0(x_k, noise, k), x0, rtol=0, atol=1e-6)


def test_noised_data_keep_unit_variance():
    schedule = schedules.vp(10)
    x_k = schedule.add_noise(normal(20_000, 4), normal(20_000, 4, key="noise"), torch.full((20_000,), 4))
    assert x_k.var().item() == pytest.approx(1, abs=0.02)


def test_snr_and_alpha_bar_take_the_shape_and_dtype_asked_for():
    schedule = schedules.vp(10)
    k = torch.tensor([1, 5, 10])
    like = normal(3, 2, 4, dtype=torch.float64)
    alpha_bar = schedule.alpha_bar(k, like)
    assert alpha_bar.shape == (3, 1, 1)
    assert alpha_bar.dtype == torch.float64
    assert schedule.snr(k).shape == (3,)
    torch.testing.assert_close(schedule.snr(k, like), alpha_bar / (1 - alpha_bar))


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double, nn.Module.float])
def test_casting_a_module_leaves_its_schedule_exact(cast):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.schedule = schedules.cosine(200)

    expected = schedules.cosine(200).alpha_bars
    holder = cast(copy.deepcopy(Holder()))
    assert torch.equal(holder.schedule.alpha_bars, expected)
    assert holder.schedule.add_noise(normal(1, 2).half(), normal(1, 2).half(), torch.ones(1).long()).dtype == (
        torch.float32
    )
    assert holder.state_dict() == {}


def test_schedule_maths_stay_float32_under_autocast():
    schedule = schedules.vp(10)
    x0, noise, k = normal(4, 3), normal(4, 3, key="noise"), torch.tensor([1, 2, 3, 10])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = schedule.add_noise(x0, noise, k)
    assert torch.equal(mixed, schedule.add_noise(x0, noise, k))


def test_a_schedule_that_never_reaches_noise_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"schedule=linear with schedule.steps=1 .*schedule.steps=2 works"):
        schedules.linear(1)
    assert schedules.linear(2).steps == 2
    with pytest.raises(UserError, match=r"schedule=vp with schedule.steps=10 .*schedule.beta_max=10 works"):
        schedules.vp(10, beta_max=2.0)


@pytest.mark.parametrize("factory", FACTORIES)
def test_no_steps_are_refused(factory):
    with pytest.raises(UserError, match=r"schedule\.steps=0"):
        factory(0)
