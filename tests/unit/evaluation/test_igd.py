"""The IGD gauge: factorising chains pass, mixing ones fail where it shows, on data that no product generates."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.errors import UserError
from dof_lightning.evaluation.igd import P_VALUE_LIMIT, PATHWISE_LIMIT, Effort, gauge, gauge_at
from dof_lightning.factorization import noise
from dof_lightning.networks.mlp import MLPDenoiser
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.toy_world import ToyEnv, ToyModule
from tests.fixtures.trajectory_models import small_dof_trajectory

STEPS = 1200


def trained_on_xor(f: Any) -> Any:
    """Two agents that see nothing useful; one acts at +0.8, the other at -0.8, and a coin decides which."""
    spec = small_spec(action_dims=(1, 1), observation_dim=1)
    execution = "decentralized" if f in (noise.Concat, noise.WConcat, noise.DecAttention) else "centralized"
    denoiser = partial(MLPDenoiser, hidden=(32, 32))
    changes = cloning(noise_factorization=f, denoiser=denoiser, execution=execution, learning_rate=3e-3, ema_decay=0.98)
    model = small_dof_policy(spec, **changes)
    optimizer = model.configure_optimizers()
    draw = generator(5)
    batch = small_batch(spec, size=256)
    batch.observations.zero_()
    for step in range(STEPS):
        side = torch.randint(2, (256, 1), generator=draw) * 2.0 - 1
        actions = 0.8 * torch.cat([side, -side], dim=1) + 0.05 * torch.randn(256, 2, generator=draw)
        batch.actions = actions[:, :, None, None]
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        optimizer.step()
        model.after_step()
    return model.policy()


@pytest.mark.parametrize("f", [pytest.param(noise.Concat, marks=pytest.mark.slow), noise.WConcat])
def test_concat_and_wconcat_pass_on_xor_data(f: Any) -> None:
    found = gauge_at(trained_on_xor(f), torch.zeros(2, 2, 1), seed=0)
    assert found.passed, found
    assert found.jacobian_ratio == 0
    assert found.control_p_value > P_VALUE_LIMIT
    assert found.hsic < 0.01
    assert found.c2st_accuracy == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("f", [pytest.param(noise.QMix, marks=pytest.mark.slow), noise.Attention])
def test_qmix_and_attention_fail_on_xor_data_by_every_check(f: Any) -> None:
    found = gauge_at(trained_on_xor(f), torch.zeros(2, 2, 1), seed=0)
    assert not found.passed
    assert found.p_value < P_VALUE_LIMIT, found
    assert found.hsic_p_value < P_VALUE_LIMIT, found
    assert found.jacobian_ratio > 0.01
    assert found.pathwise_error is None
    assert found.control_p_value > P_VALUE_LIMIT


@pytest.mark.slow
def test_dec_attention_does_not_execute_what_it_trained() -> None:
    found = gauge_at(trained_on_xor(noise.DecAttention), torch.zeros(2, 2, 1), seed=0)
    assert found.pathwise_error is not None
    assert found.pathwise_error > 1e-2
    assert not found.passed


class _SameNoise(DiffusionActor):
    """Both agents' chains run on the same noise: dependent draws of independent networks."""

    def chain_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        drawn = super().chain_noise(rows, generator)
        return drawn[:, :, :1].expand_as(drawn)


class _Mixing(DiffusionActor):
    """An agent's prediction depends a little on the other's x, where the Jacobian is taken and nowhere else."""

    def joint_prediction(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        return super().joint_prediction(x, k, condition) + 0.1 * x.roll(1, dims=1)


class _Louder(noise.Concat):
    """What an agent runs alone is not what was joined."""

    def local(self, parts: Tensor) -> Tensor:
        return 1.5 * parts


@pytest.mark.parametrize(
    ("f", "acts", "fails"),
    [
        (noise.Concat, DiffusionActor, "nothing"),
        (noise.Concat, _SameNoise, "draws"),
        (noise.Concat, _Mixing, "jacobian"),
        (_Louder, DiffusionActor, "path"),
    ],
)
def test_each_check_alone_decides(f: Any, acts: type[DiffusionActor], fails: str) -> None:
    narrow = partial(MLPDenoiser, hidden=(16,))
    policy = small_dof_policy(small_spec((1, 1), 1), **cloning(noise_factorization=f, denoiser=narrow)).policy()
    policy.__class__ = acts
    found = gauge_at(policy, torch.zeros(2, 2, 1), seed=0, effort=Effort(draws=256, permutations=2000, rows=8))
    assert found.pathwise_error is not None
    told = {
        "jacobian": found.jacobian_ratio > 0,
        "path": found.pathwise_error > PATHWISE_LIMIT,
        "draws": min(found.p_value, found.hsic_p_value) <= P_VALUE_LIMIT,
    }
    assert [name for name, failed in told.items() if failed] == ([] if fails == "nothing" else [fails])
    assert found.passed == (fails == "nothing")


@pytest.mark.parametrize("return_update", ["none", "time"])
def test_a_planning_actor_of_untrained_networks_passes_and_its_windows_are_what_is_measured(return_update: str) -> None:
    model = small_dof_trajectory(return_update=return_update)
    observations = torch.randn(2, 3, 4, generator=generator())
    found = gauge_at(model.policy(), observations, seed=0, effort=Effort(draws=128, permutations=1000, rows=8))
    assert found.passed, found
    assert found.pathwise_error is not None


def test_a_planning_actor_whose_chain_mixes_agents_fails() -> None:
    policy = small_dof_trajectory(noise_factorization=noise.Concat).policy()
    policy.noise_factorization = noise.DecAttention(small_spec())
    effort = Effort(draws=64, permutations=100, rows=8)
    found = gauge_at(policy, torch.randn(2, 3, 4, generator=generator()), seed=0, effort=effort)
    assert found.jacobian_ratio > 1e-3
    assert found.pathwise_error is not None
    assert found.pathwise_error > 1e-3
    assert not found.passed


def test_a_planning_actors_own_chains_are_those_it_acts_by() -> None:
    policy = small_dof_trajectory(return_update="time").policy()
    observations = torch.randn(5, 3, 4, generator=generator())
    noises = policy.chain_noise(5, generator(1)).float()
    plan = policy.local_sample(policy.chain_condition(observations), noises)
    carry = policy.initial_carry(5, observations.device)
    acted, _ = policy.act_on_noise(observations, carry, None, noises.movedim(0, 2))
    following = policy.normalizer.unnormalize(plan)[:, :, policy.history + 1]
    rows = (policy.inverse_normalizer.normalize(row) for row in (observations, following))
    expected = policy.inverse(*rows).clamp(-1, 1) * policy.action_mask
    torch.testing.assert_close(acted, expected)


def test_what_has_no_joint_chain_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="no joint chain"):
        gauge(ToyModule().policy(), ToyEnv(), seed=0)
    with pytest.raises(UserError, match="draws"):
        gauge(small_dof_policy().policy(), ToyEnv(), seed=0, effort=Effort(draws=1))
