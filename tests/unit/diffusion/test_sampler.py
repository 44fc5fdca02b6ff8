import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from dof_lightning.diffusion import schedule as schedules
from dof_lightning.diffusion.dpm_solver import DPMSolver
from dof_lightning.diffusion.sampler import DDIM, DDPM
from dof_lightning.errors import UserError
from dof_lightning.seeding import make_generator

SCHEDULES = [schedules.vp(20), schedules.cosine(20), schedules.linear(20)]
CHAINS = [None, 10, 5]


def normal(*shape, dtype=torch.float64, key="x"):
    return torch.randn(*shape, dtype=dtype, generator=make_generator("sampler", key))


def clip_to_one(x0):
    return x0.clamp(-1, 1)


def exact_denoiser(schedule, mean, deviation):
    def denoise(x, k):
        alpha_bar = schedule.alpha_bar(k, x)
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return denoise


def one_step(sampler, x, eps, index, noise, clip):
    return sampler.step(x, sampler.estimate(x, eps, index, clip), index, noise)


def oracle(kind, schedule, sampler, clip_sample, **settings):
    if clip_sample is not None:
        settings["clip_sample"] = clip_sample
    theirs = kind(
        num_train_timesteps=schedule.steps,
        trained_betas=schedule.betas.numpy(),
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
        assert_same_step(one_step(sampler, x, eps, index, noise, clip_to_one if clip_sample else None), expected)


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
        assert_same_step(one_step(sampler, x, eps, index, noise, clip_to_one if clip_sample else None), expected)


@pytest.mark.parametrize("clip_sample", [False, True])
@pytest.mark.parametrize("steps", [None, 10, 5, 3, 2, 1])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm_solver_chains_match_diffusers(schedule, steps, clip_sample):
    sampler = DPMSolver(schedule, steps)
    theirs = oracle(DPMSolverMultistepScheduler, schedule, sampler, None, prediction_type="sample")
    assert [int(t) + 1 for t in theirs.timesteps] == sampler.timesteps
    alpha_bars = [schedule.alpha_bars[k] for k in sampler.timesteps]
    exact = [((1 - a) / a).sqrt() for a in alpha_bars]
    theirs.sigmas = torch.stack([*exact, torch.zeros_like(exact[0])])  # float32 otherwise
    ours, expected, previous = normal(6, 3, 2), normal(6, 3, 2), None
    for index, k in enumerate(sampler.timesteps):
        x0 = sampler.estimate(ours, normal(6, 3, 2, key=f"eps{k}"), index, clip_to_one if clip_sample else None)
        expected = theirs.step(x0, k - 1, expected).prev_sample
        ours, previous = sampler.step(ours, x0, index, None, previous), x0
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, check_dtype=False)  # they step in float32


def error_half_way(build, steps):
    # Against the exact probability flow of N(mean, deviation^2), which keeps quantiles, from level K to level K / 2.
    schedule, mean, deviation = schedules.vp(400), 0.3, 0.5
    sampler, denoise, start = build(schedule, steps), exact_denoiser(schedule, mean, deviation), normal(200, 1)
    x, previous = start, None
    for index, k in enumerate(sampler.timesteps[: steps // 2]):
        x0 = sampler.estimate(x, denoise(x, torch.full((200,), k)), index)
        x, previous = sampler.step(x, x0, index, None, previous), x0

    def moments(alpha_bar):
        return alpha_bar.sqrt() * mean, (alpha_bar * deviation**2 + 1 - alpha_bar).sqrt()

    (there, scale_there), (here, scale_here) = (moments(schedule.alpha_bars[k]) for k in (400, 200))
    return (here + scale_here * (start - there) / scale_there - x).abs().max().item()


def test_dpm_solver_is_of_second_order_and_ddim_of_first():
    ddim, solver = ([error_half_way(build, steps) for steps in (20, 40, 80)] for build in (DDIM, DPMSolver))
    assert all(ours < theirs for ours, theirs in zip(solver, ddim, strict=True))
    for coarse, fine in itertools.pairwise(ddim):
        assert 1.6 < coarse / fine < 2.5
    for coarse, fine in itertools.pairwise(solver):
        assert 3.2 < coarse / fine < 5.0


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm_solver_with_one_or_two_steps_is_ddim(schedule, steps):
    ddim, solver = DDIM(schedule, steps), DPMSolver(schedule, steps)
    noises = normal(1, 4, 3)
    ours = solver.sample(lambda x, k: x.tanh(), noises, clip_to_one)
    torch.testing.assert_close(ours, ddim.sample(lambda x, k: x.tanh(), noises, clip_to_one), rtol=0, atol=1e-12)


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


@pytest.mark.parametrize(
    "sampler",
    [DDPM(SCHEDULES[0], 5), DDIM(SCHEDULES[0], 5), DDIM(SCHEDULES[0], 5, eta=0.3), DPMSolver(SCHEDULES[0], 5)],
)
def test_every_noise_handed_in_is_used_and_no_more(sampler):
    noises = normal(sampler.n_noises, 3, 2).requires_grad_()
    sampler.sample(lambda x, k: 0.1 * x, noises).sum().backward()
    assert (noises.grad.flatten(1).abs().sum(1) > 0).all()
    assert sampler.n_noises == (
        1 if isinstance(sampler, DPMSolver) or (isinstance(sampler, DDIM) and sampler.eta == 0) else 5
    )


@pytest.mark.parametrize(("build", "tolerance"), [(DDPM, 0.03), (DDIM, 0.01), (DPMSolver, 0.01)])
def test_the_exact_denoiser_of_a_gaussian_gives_back_that_gaussian(build, tolerance):
    # For x_0 ~ N(m, s^2) the posterior mean of the noise is known, so samples must have mean m and deviation s.
    schedule, mean, deviation = schedules.cosine(400), 0.3, 0.5
    sampler = build(schedule)
    samples = sampler.sample(exact_denoiser(schedule, mean, deviation), normal(sampler.n_noises, 4000, 1))
    standard_error = deviation / 4000**0.5
    assert samples.mean().item() == pytest.approx(mean, abs=4 * standard_error)
    assert samples.std().item() == pytest.approx(deviation, abs=4 * standard_error + tolerance * deviation)


def test_the_last_sub_step_lands_on_the_clipped_data():
    for sampler in (DDPM(SCHEDULES[1], 4), DDIM(SCHEDULES[1], 4), DPMSolver(SCHEDULES[1], 4)):
        x, eps = normal(5, 2), normal(5, 2, key="eps")
        k = torch.full((5,), sampler.timesteps[-1])
        expected = SCHEDULES[1].predict_x0(x, eps, k).clamp(-1, 1)
        torch.testing.assert_close(one_step(sampler, x, eps, 3, None, clip_to_one), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", [DDIM, DPMSolver])
def test_gradients_flow_through_the_whole_chain(build):
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sampler = build(SCHEDULES[0], 4)
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
@pytest.mark.parametrize("build", [DDPM, DDIM, DPMSolver])
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
