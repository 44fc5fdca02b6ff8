import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from dof_lightning.diffusion import schedule as schedules
from dof_lightning.diffusion.sampler import DDIM, DDPM
from dof_lightning.errors import UserError
from dof_lightning.seeding import make_generator

SCHEDULES = [schedules.vp(20), schedules.cosine(20), schedules.linear(20)]
CHAINS = [None, 10, 5]


def normal(*shape, dtype=torch.float64, key="x"):
    return torch.randn(*shape, dtype=dtype, generator=make_generator("sampler", key))


def clip_to_one(x0):
    return x0.clamp(-1, 1)


def oracle(kind, schedule, sampler, clip_sample, **settings):
    theirs = kind(
        num_train_timesteps=schedule.steps,
        trained_betas=schedule.betas.numpy(),
        clip_sample=clip_sample,
        timestep_spacing="trailing",
        **settings,
    )
    theirs.alphas_cumprod = schedule.alpha_bars[1:]  # theirs in float64 too: the formula is compared, not rounding
    theirs.set_timesteps(len(sampler.timesteps))
    return theirs


def assert_same_step(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clip_sample", [False, True])
@pytest.mark.parametrize("steps", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_steps_match_diffusers(monkeypatch, schedule, steps, clip_sample):
    sampler = DDPM(schedule, steps)
    theirs = oracle(DDPMScheduler, schedule, sampler, clip_sample)
    assert [int(t) + 1 for t in theirs.timesteps] == sampler.timesteps
    noises = normal(sampler.n_noises + 1, 6, 3, 2, key="noises")
    for index, k in enumerate(sampler.timesteps):
        x, eps = normal(6, 3, 2, key=f"x{k}"), normal(6, 3, 2, key=f"eps{k}")
        noise = noises[index + 1]
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, noise=noise, **__: noise)
        expected = theirs.step(eps, k - 1, x).prev_sample
        assert_same_step(sampler.step(x, eps, index, noise, clip_to_one if clip_sample else None), expected)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip_sample", [False, True])
@pytest.mark.parametrize("steps", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_steps_match_diffusers(schedule, steps, clip_sample, eta):
    sampler = DDIM(schedule, steps, eta=eta)
    theirs = oracle(DDIMScheduler, schedule, sampler, clip_sample)
    assert [int(t) + 1 for t in theirs.timesteps] == sampler.timesteps
    noise = normal(6, 3, 2, key="noise")
    for index, k in enumerate(sampler.timesteps):
        x, eps = normal(6, 3, 2, key=f"x{k}"), normal(6, 3, 2, key=f"eps{k}")
        expected = theirs.step(eps, k - 1, x, eta=eta, use_clipped_model_output=True, variance_noise=noise).prev_sample
        assert_same_step(sampler.step(x, eps, index, noise, clip_to_one if clip_sample else None), expected)


@pytest.mark.parametrize("steps", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_full_noise_is_ddpm(schedule, steps):
    ddpm, ddim = DDPM(schedule, steps), DDIM(schedule, steps, eta=1.0)
    noises = normal(ddpm.n_noises, 4, 3)
    assert ddim.n_noises == ddpm.n_noises
    ours = ddim.sample(lambda x, k: x.tanh(), noises, clip_to_one)
    torch.testing.assert_close(ours, ddpm.sample(lambda x, k: x.tanh(), noises, clip_to_one), rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", range(1, 21))
def test_sub_chains_start_at_noise_and_descend(count):
    timesteps = DDPM(SCHEDULES[0], count).timesteps
    assert len(timesteps) == count
    assert timesteps[0] == 20
    assert timesteps[-1] >= 1
    assert all(a > b for a, b in itertools.pairwise(timesteps))


@pytest.mark.parametrize("sampler", [DDPM(SCHEDULES[0], 5), DDIM(SCHEDULES[0], 5), DDIM(SCHEDULES[0], 5, eta=0.3)])
def test_every_noise_handed_in_is_used_and_no_more(sampler):
    noises = normal(sampler.n_noises, 3, 2).requires_grad_()
    sampler.sample(lambda x, k: 0.1 * x, noises).sum().backward()
    assert (noises.grad.flatten(1).abs().sum(1) > 0).all()
    assert sampler.n_noises == (1 if isinstance(sampler, DDIM) and sampler.eta == 0 else 5)


@pytest.mark.parametrize(("build", "tolerance"), [(DDPM, 0.03), (DDIM, 0.01)])
def test_the_exact_denoiser_of_a_gaussian_gives_back_that_gaussian(build, tolerance):
    # For x_0 ~ N(m, s^2) the posterior mean of the noise is known, so samples must have mean m and deviation s.
    schedule, mean, deviation = schedules.cosine(400), 0.3, 0.5
    sampler = build(schedule)

    def denoise(x, k):
        alpha_bar = schedule.alpha_bar(k, x)
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    samples = sampler.sample(denoise, normal(sampler.n_noises, 4000, 1))
    standard_error = deviation / 4000**0.5
    assert samples.mean().item() == pytest.approx(mean, abs=4 * standard_error)
    assert samples.std().item() == pytest.approx(deviation, abs=4 * standard_error + tolerance * deviation)


def test_the_last_sub_step_lands_on_the_clipped_data():
    for sampler in (DDPM(SCHEDULES[1], 4), DDIM(SCHEDULES[1], 4)):
        x, eps = normal(5, 2), normal(5, 2, key="eps")
        k = torch.full((5,), sampler.timesteps[-1])
        expected = SCHEDULES[1].predict_x0(x, eps, k).clamp(-1, 1)
        torch.testing.assert_close(sampler.step(x, eps, 3, None, clip_to_one), expected, rtol=0, atol=1e-12)


def test_gradients_flow_through_the_whole_chain():
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sampler = DDIM(SCHEDULES[0], 4)
    noises = normal(1, 3, 2)
    assert torch.autograd.gradcheck(lambda g: sampler.sample(lambda x, k: g * x, noises), (gain,))


def test_temperature_scales_the_start_only():
    cold, warm = DDPM(SCHEDULES[0], temperature=0.0), DDPM(SCHEDULES[0])
    noises = normal(warm.n_noises, 3, 2)
    still = noises.clone()
    still[0] = 0
    ours = cold.sample(lambda x, k: 0.1 * x, noises)
    torch.testing.assert_close(ours, warm.sample(lambda x, k: 0.1 * x, still))


def test_a_chain_in_bfloat16_is_computed_in_float32():
    sampler = DDIM(SCHEDULES[0], 4)
    assert sampler.sample(lambda x, k: x.bfloat16(), normal(1, 3, 2).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("build", [DDPM, DDIM])
@pytest.mark.parametrize("factory", [schedules.vp, schedules.cosine, schedules.linear])
def test_short_schedules_sample_finitely(factory, build, steps):
    sampler = build(factory(10), steps)
    noises = normal(sampler.n_noises, 8, 2, dtype=torch.float32)
    samples = sampler.sample(lambda x, k: x, noises, clip_to_one)
    assert samples.isfinite().all()
    assert samples.abs().max() <= 1


def test_impossible_settings_are_refused():
    for steps in (0, 21):
        with pytest.raises(UserError, match=f"sampler.steps={steps}"):
            DDPM(SCHEDULES[0], steps)
    with pytest.raises(UserError, match=r"sampler\.eta"):
        DDIM(SCHEDULES[0], eta=1.5)
    with pytest.raises(UserError, match=r"sampler\.temperature"):
        DDPM(SCHEDULES[0], temperature=-1)
