"""The factorised diffusion model: joint and local sampling, the learning of f and h, and Independent Diffusion."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dof_lightning.algorithms.parts.diffused import entry_weight
from dof_lightning.diffusion import sampler, schedule
from dof_lightning.diffusion.clip import clip_with_way_back
from dof_lightning.diffusion.dpm_solver import DPMSolver
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.factorization.concat import Concat
from dof_lightning.networks.agentwise import clip_gradient_norm
from dof_lightning.networks.mlp import MLPDenoiser
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec

SAMPLERS = [
    sampler.DDPM,
    partial(sampler.DDPM, steps=4),
    sampler.DDIM,
    partial(sampler.DDIM, steps=3),
    partial(DPMSolver, steps=5),
]


def randomize_weights(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("log_weight"):
            parameter.data = torch.linspace(-1.0, 1.3, parameter.numel(), dtype=parameter.dtype)


@pytest.mark.parametrize("make_sampler", SAMPLERS)
@pytest.mark.parametrize("f", [noise.Concat, noise.WConcat])
@pytest.mark.parametrize("h", [data.Concat, data.WConcat])
def test_joint_and_local_chains_agree_pathwise(make_sampler: Any, f: Any, h: Any) -> None:
    """Theorems 1 and 2 as a number: the same noise gives the same data through x_tot and through every x_i."""
    model = small_dof_policy(noise_factorization=f, data_factorization=h, sampler=make_sampler).double()
    randomize_weights(model)
    condition = torch.randn(64, 3, 4, generator=generator(1), dtype=torch.float64)
    draws = torch.randn(model.sampler.n_noises, 64, 3, 2, generator=generator(2), dtype=torch.float64)
    joint, local = model.joint_sample(condition, draws), model.local_sample(condition, draws)
    assert (joint - local).abs().max() <= 1e-10
    assert local.std() > 0.1


def scramble(module: nn.Module) -> None:
    for index, parameter in enumerate(module.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator(index))


def test_pathwise_check_sees_a_chain_that_forgets_the_weights() -> None:
    """The control: an f whose `split` is not the inverse of `join` does not factorise."""

    class Forgetful(noise.WConcat):
        def split(self, joint: torch.Tensor) -> torch.Tensor:
            return joint

    model = small_dof_policy(noise_factorization=Forgetful).double()
    randomize_weights(model)
    condition = torch.randn(16, 3, 4, generator=generator(1), dtype=torch.float64)
    draws = torch.randn(model.sampler.n_noises, 16, 3, 2, generator=generator(2), dtype=torch.float64)
    assert (model.joint_sample(condition, draws) - model.local_sample(condition, draws)).abs().max() > 1e-3


def test_local_chain_of_agent_i_depends_on_agent_i_only() -> None:
    model = small_dof_policy().double()
    condition = torch.randn(5, 3, 4, generator=generator(1), dtype=torch.float64)
    draws = torch.randn(model.sampler.n_noises, 5, 3, 2, generator=generator(2), dtype=torch.float64)
    before = model.local_sample(condition, draws)
    condition[:, 1], draws[:, :, 1] = 7.0, -2.0
    after = model.local_sample(condition, draws)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_configured_steps_are_the_models_steps() -> None:
    """The released code rebuilt its policy with defaults, so that K of the config never applied."""
    model = small_dof_policy(schedule=partial(schedule.vp, steps=37))
    assert model.schedule.steps == 37
    assert len(model.sampler.timesteps) == 37
    batch = small_batch(model.spec, size=4000)
    denoised = model.denoise(batch.actions[:, :, 0], batch.observations[:, :, 0], generator())
    assert denoised.k.min() == 1
    assert denoised.k.max() == 37
    assert denoised.k.unique().numel() == 37


def test_factorization_weights_are_trained() -> None:
    """The released code never updated them."""
    model = small_dof_policy()
    optimizer = model.configure_optimizers()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("log_weight")}
    model.losses(small_batch(model.spec), generator())["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if name in before and p.requires_grad}
    assert set(gradients) == {"noise_factorization.log_weight", "data_factorization.log_weight"}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    optimizer.step()
    model.after_step()
    after = dict(model.named_parameters())
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_averages_follow_and_act() -> None:
    model = small_dof_policy()
    online = dict(model.denoiser.named_parameters())
    for parameter in online.values():
        parameter.data += 1.0
    before = {name: p.clone() for name, p in model.average_denoiser.named_parameters()}
    model.after_step()
    for name, parameter in model.average_denoiser.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * online[name])
    assert model.policy().denoiser is model.average_denoiser


@pytest.mark.parametrize("changes", [cloning(), {"critics": "separate"}, {"critics": "mixed"}])
def test_dead_agents_enter_no_loss(changes: dict[str, Any]) -> None:
    model = small_dof_policy(**changes)
    batch = small_batch(model.spec)
    batch.alive = torch.ones(32, 3, 2, dtype=torch.bool)
    batch.alive[:, 2] = False
    batch.transition_mask = batch.transition_mask & batch.alive[:, :, :1]
    before = model.losses(batch, generator())["loss"]
    batch.actions[:, 2], batch.observations[:, 2] = 0.123, 5.0
    if changes.get("critics") != "mixed":  # a team's reward is the mean over all agents
        batch.rewards[:, 2] = 7.0
    torch.testing.assert_close(model.losses(batch, generator())["loss"], before)
    batch.actions[:, 1, 0, 0] = 0.123
    assert not torch.allclose(model.losses(batch, generator())["loss"], before)


def test_padded_dimensions_carry_no_noise() -> None:
    model = small_dof_policy()
    batch = small_batch(model.spec)
    denoised = model.denoise(batch.actions[:, :, 0], batch.observations[:, :, 0], generator())
    assert denoised.noise[:, 1, 1].abs().max() == 0
    assert denoised.noise[:, 0].abs().min() > 0


def test_heldout_loss_is_the_averages_and_each_agents_own() -> None:
    """Untrained networks err by about 1 per entry, whatever the size of an agent's action."""
    model = small_dof_policy()
    batch = small_batch(model.spec, size=2000)
    before = model.heldout_losses(batch, generator())
    assert all(0.7 < value < 1.5 for value in before.values())
    assert len(before) == 4
    scramble(model.denoiser)
    assert torch.equal(model.heldout_losses(batch, generator())["heldout/diffusion"], before["heldout/diffusion"])
    scramble(model.average_denoiser)
    assert not torch.equal(model.heldout_losses(batch, generator())["heldout/diffusion"], before["heldout/diffusion"])


def test_reconstruction_trains_h_only_and_limits_the_snr() -> None:
    model = small_dof_policy()
    batch = small_batch(model.spec)
    x0 = batch.actions[:, :, 0]
    denoised = model.denoise(x0, batch.observations[:, :, 0], generator())
    weight = entry_weight(model.data_mask, x0, None)
    early = replace(denoised, k=torch.ones_like(denoised.k))
    assert model.schedule.snr(early.k).min() > 5
    loss = model.reconstruction_loss(early, x0, weight)
    torch.testing.assert_close(loss, 5 * (weight * (x0 - denoised.x0).square()).sum())
    loss.backward()
    assert model.data_factorization.log_weight.grad is not None
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())


def test_what_f_does_locally_happens_at_execution() -> None:
    class Louder(noise.Concat):
        def local(self, parts: torch.Tensor) -> torch.Tensor:
            return 1.5 * parts

    condition = torch.randn(8, 3, 4, generator=generator(1))
    draws = torch.randn(11, 8, 3, 2, generator=generator(2))
    plain, louder = (small_dof_policy(noise_factorization=f) for f in (noise.Concat, Louder))
    draws = draws[: plain.sampler.n_noises]
    assert not torch.allclose(plain.local_sample(condition, draws), louder.local_sample(condition, draws))


def test_masked_mean_divides_by_a_constant_of_the_batch() -> None:
    """Two ranks' means then average to the whole batch's mean, whoever is dead where."""
    model = small_dof_policy()
    error = torch.rand(8, 3, 2, generator=generator())
    alive = torch.rand(8, 3, generator=generator(1)) < 0.5
    whole = (entry_weight(model.data_mask, error, alive) * error).sum()
    halves = [
        (entry_weight(model.data_mask, error[part], alive[part]) * error[part]).sum()
        for part in (slice(4), slice(4, 8))
    ]
    torch.testing.assert_close(whole, torch.stack(halves).mean())


def test_concat_with_independent_networks_is_independent_diffusion_weight_for_weight() -> None:
    """An identity to keep in mind, against N plain separate trainings."""
    spec = small_spec(action_dims=(2, 2, 2))
    model = small_dof_policy(spec, **cloning())
    loners = [_Loner(model.denoiser.select_agent(i), 3) for i in range(3)]
    optimizer = model.configure_optimizers()
    for step in range(10):
        batch = small_batch(spec, seed=step)
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        for group in model.parameter_groups():
            clip_gradient_norm(group.modules, group.clip)
        optimizer.step()
        k = torch.randint(1, 11, (32,), generator=(g := generator(step)))
        eps = torch.randn(32, 3, 2, generator=g)
        condition = model.normalizer.normalize(batch.observations[:, :, 0])
        for i, loner in enumerate(loners):
            loner.step(batch.actions[:, i, 0], condition[:, i], k, eps[:, i], model.schedule.alpha_bars)
    for i, loner in enumerate(loners):
        for mine, theirs in zip(model.denoiser.select_agent(i).parameters(), loner.network.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


class _Loner:
    """One agent's own diffusion model, trained in the plainest way."""

    def __init__(self, network: nn.Module, n_agents: int) -> None:
        self.network, self.n_agents = network, n_agents
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step(
        self, x0: torch.Tensor, condition: torch.Tensor, k: torch.Tensor, eps: torch.Tensor, alpha_bars: torch.Tensor
    ) -> None:
        alpha_bar = alpha_bars[k].float()[:, None]
        x_k = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        loss = nn.functional.mse_loss(self.network(x_k[:, None], k, condition[:, None])[:, 0], eps) / self.n_agents
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()


def test_clip_lets_saturated_entries_come_back_and_no_further_out() -> None:
    x = torch.tensor([2.0, 2.0, -2.0, -2.0, 0.5, 0.5], requires_grad=True)
    pull = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    clipped = clip_with_way_back(x, 1.0)
    (pull * clipped).sum().backward()
    assert clipped.tolist() == [1.0, 1.0, -1.0, -1.0, 0.5, 0.5]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 0.0, -1.0, 1.0, -1.0]


def test_gradient_of_q_cannot_push_estimates_out_of_range() -> None:
    """An eta this large made the straight-through clip lose the data within a few hundred steps (loss above 1000)."""
    model = small_dof_policy(q_weight=50.0, denoiser=partial(MLPDenoiser, hidden=(32, 32)), learning_rate=3e-3)
    optimizer = model.configure_optimizers()
    for step in range(300):
        optimizer.zero_grad()
        losses = model.losses(small_batch(model.spec, seed=step), generator(step))
        losses["loss"].backward()
        for group in model.parameter_groups():
            clip_gradient_norm(group.modules, group.clip)
        optimizer.step()
        model.after_step()
    assert losses["loss/diffusion"] < 10


def test_a_factorization_that_cannot_run_locally_is_refused() -> None:
    class Central(Concat):
        local_execution = False
        satisfies_igd = False

        def __init__(self, spec: Any) -> None:
            super().__init__()

    with pytest.raises(UserError, match="run locally"):
        small_dof_policy(noise_factorization=Central)
