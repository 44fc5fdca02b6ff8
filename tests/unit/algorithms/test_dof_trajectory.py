"""DoF-Trajectory: known rows stay, padding teaches nothing, and both chains agree."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.actors.planning import PlanningActor
from dof_lightning.diffusion import sampler
from dof_lightning.diffusion.chain import guided_noise
from dof_lightning.diffusion.dpm_solver import DPMSolver
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from tests.fixtures.policy_models import generator
from tests.fixtures.small_spec import small_spec
from tests.fixtures.trajectory_models import HISTORY, HORIZON, small_dof_trajectory, small_windows
from tests.unit.algorithms.test_dof import randomize_weights

T = HISTORY + HORIZON
SAMPLERS = [sampler.DDPM, partial(sampler.DDPM, steps=5), partial(sampler.DDIM, steps=3), partial(DPMSolver, steps=5)]


def chain_inputs(model: Any, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Condition, noise and what is known, in float64."""
    condition = torch.rand(size, 3, 2, generator=generator(1), dtype=torch.float64)
    draws = model.draw_noise((model.sampler.n_noises, size, 3, T, 4), generator(2), torch.float64)
    known = torch.rand(size, 3, T, 4, generator=generator(3), dtype=torch.float64) * 2 - 1
    return condition, draws, known


@pytest.mark.parametrize("make_sampler", SAMPLERS)
@pytest.mark.parametrize("f", [noise.Concat, noise.WConcat])
@pytest.mark.parametrize("h", [data.Concat, data.WConcat])
def test_joint_and_local_chains_agree_pathwise(make_sampler: Any, f: Any, h: Any) -> None:
    """Theorems 1 and 2 with in-painting and guidance."""
    model = small_dof_trajectory(noise_factorization=f, data_factorization=h, sampler=make_sampler).double()
    randomize_weights(model)
    condition, draws, known = chain_inputs(model)
    joint = model.joint_sample(condition, draws, known=known)
    local = model.local_sample(condition, draws, known=known)
    assert (joint - local).abs().max() <= 1e-10
    assert local[:, :, HISTORY + 1 :].std() > 0.1


def test_history_and_current_row_come_out_as_they_went_in_and_matter() -> None:
    model = small_dof_trajectory().double()
    randomize_weights(model)
    condition, draws, known = chain_inputs(model)
    plan = model.local_sample(condition, draws, known=known)
    assert torch.equal(plan[:, :, : HISTORY + 1], known[:, :, : HISTORY + 1])
    for row in range(HISTORY + 1):
        other = known.clone()
        other[:, :, row] += 0.5
        changed = model.local_sample(condition, draws, known=other)[:, :, HISTORY + 1 :]
        assert not torch.allclose(changed, plan[:, :, HISTORY + 1 :]), row
    other = known.clone()
    other[:, :, HISTORY + 1 :] += 0.5
    assert torch.equal(model.local_sample(condition, draws, known=other), plan), "the future must not be looked at"


def test_the_denoisers_see_known_rows_without_noise_while_training() -> None:
    model = small_dof_trajectory()
    batch, seen = small_windows(model), []
    model.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    model.losses(batch, generator())
    x0 = model.normalizer.normalize(batch.observations[:, :, :-1])
    assert torch.equal(seen[0][:, :, : HISTORY + 1], x0[:, :, : HISTORY + 1])
    assert not torch.isclose(seen[0][:, :, HISTORY + 1 :], x0[:, :, HISTORY + 1 :]).all(-1).any()


def test_rows_outside_the_episode_teach_nothing() -> None:
    model = small_dof_trajectory()
    batch = small_windows(model, size=64)
    before = model.losses(batch, generator())
    outside = ~batch.valid[:, None, :-1, None]
    batch.actions = torch.where(outside, torch.full_like(batch.actions, 9.0), batch.actions)
    after = model.losses(batch, generator())
    assert torch.equal(before["loss/inverse"], after["loss/inverse"])
    batch.diffusion_mask[:] = False
    assert float(model.losses(batch, generator())["loss/diffusion"].detach()) == 0.0


def test_a_full_batchs_loss_is_a_mean_and_masking_keeps_its_divisor() -> None:
    model = small_dof_trajectory(noise_factorization=noise.Concat)
    batch = small_windows(model)
    batch.diffusion_mask = (torch.arange(T) > HISTORY).expand(batch.size, T).clone()
    whole = float(model.losses(batch, generator())["loss/diffusion"].detach())
    parts = []
    for row in range(HISTORY + 1, T):
        batch.diffusion_mask = (torch.arange(T) == row).expand(batch.size, T).clone()
        parts.append(float(model.losses(batch, generator())["loss/diffusion"].detach()))
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    assert 0.5 < whole < 2.0, "the mean squared error of an untrained network"


def test_dropped_returns_are_really_unknown() -> None:
    """The released code's 'unconditional' pass was unconditional a quarter of the time."""
    model = small_dof_trajectory(return_dropout=0.25)
    batch, seen = small_windows(model, size=400), []
    model.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2].clone()))
    model.losses(batch, generator())
    has_return = seen[0][..., 1] == 1
    assert 0.2 < float((~has_return).float().mean()) < 0.3
    assert bool((seen[0][~has_return] == 0).all())
    expected = batch.return_to_go[:, :, HISTORY] / model.returns_scale
    assert torch.equal(seen[0][..., 0][has_return], expected[has_return])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 1.2, 3.0])
def test_guidance_mixes_both_predictions_in_one_call(weight: float) -> None:
    network = small_dof_trajectory().denoiser
    x, k = torch.randn(5, 3, T, 4, generator=generator()), torch.arange(1, 6)
    condition = torch.rand(5, 3, 2, generator=generator(1)) + 0.5
    with_return, without = network(x, k, condition), network(x, k, torch.zeros_like(condition))
    calls: list[int] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    guided = guided_noise(network, x, k, condition, weight)
    hook.remove()
    torch.testing.assert_close(guided, without + weight * (with_return - without), rtol=1e-4, atol=1e-5)
    assert calls == ([5] if weight in (0.0, 1.0) else [10])


def test_padding_carries_no_noise_and_comes_out_as_zero() -> None:
    from dof_lightning.spec import AgentSpec

    spec = small_spec()
    agents = (AgentSpec("narrow", 2, 2), *spec.environment.agents[1:])
    object.__setattr__(spec.environment, "agents", agents)
    spec.statistics.observations.knots[:, 0, 2:] = 0.0
    model = small_dof_trajectory(spec)
    draws = model.draw_noise((model.sampler.n_noises, 6, 3, T, 4), generator(2), torch.float32)
    plan = model.local_sample(torch.ones(6, 3, 2), draws, known=torch.zeros(6, 3, T, 4))
    assert bool((draws[:, :, 0, :, 2:] == 0).all())
    assert bool((plan[:, 0, :, 2:] == 0).all())


def test_the_share_of_clipped_estimates_is_of_the_entries_that_diffuse() -> None:
    """Two rows of history and the current one are known."""
    model = small_dof_trajectory()
    batch = small_windows(model)
    windows = model.diffused(batch, generator())
    model.clip_range = 0.0
    share = model.denoise(windows.x0, windows.condition, generator(), mask=windows.mask).clipped_share
    assert float(share) == 1.0


def rewarded_targets(actor: PlanningActor, rewards: list[float]) -> list[float]:
    """The targets that the first agent asks for, decision after decision."""
    observations = torch.zeros(1, 3, 4)
    carry, asked = actor.initial_carry(1, torch.device("cpu")), []
    for reward in [*rewards, 0.0]:
        asked.append(float(actor._condition(observations, carry)[0, 0, 0]))
        _, carry = actor.act_on_noise(observations, carry, None, actor.draw_noise(1, generator()))
        carry = actor.observe_rewards(carry, torch.full((1, 3), reward))
    return asked


def test_the_target_goes_on_as_asked() -> None:
    settings: dict[str, Any] = {"target_return": 0.8, "returns_scale": 2.0}
    constant, timed, rewarded = (
        small_dof_trajectory(return_update=update, **settings).policy() for update in ("none", "time", "reward")
    )
    gamma, length = 0.99, 5  # of the small spec
    assert rewarded_targets(constant, [1.0, 1.0]) == pytest.approx([0.8, 0.8, 0.8])
    left = [0.8 * (1 - gamma ** (length - t)) / (1 - gamma**length) for t in range(3)]
    assert rewarded_targets(timed, [1.0, 1.0]) == pytest.approx(left)
    one = (0.8 * 2 - 1.0) / gamma / 2
    assert rewarded_targets(rewarded, [1.0, 0.5]) == pytest.approx([0.8, one, (one * 2 - 0.5) / gamma / 2])
    assert [actor.observes_rewards for actor in (constant, timed, rewarded)] == [False, False, True]


def test_an_agent_remembers_what_a_window_of_the_dataset_would_hold() -> None:
    """Heads repeat the first row, as `gather_windows` does."""
    actor, seen = small_dof_trajectory().policy(), []
    actor.plan = lambda past, condition, noise: seen.append(past) or torch.zeros(2, 3, T, 4)  # type: ignore
    observations = torch.randn(5, 2, 3, 4, generator=generator())
    carry = actor.initial_carry(2, torch.device("cpu"))
    for row in observations:
        _, carry = actor.act_on_noise(row, carry, None, actor.draw_noise(2, generator()))
    for t, past in enumerate(seen):
        rows = [max(t - back, 0) for back in range(HISTORY, -1, -1)]
        assert torch.equal(past, observations[rows].permute(1, 2, 0, 3))


def test_discrete_agents_take_legal_actions_and_learn_from_them() -> None:
    spec = small_spec((3, 2, 4), action_kind="discrete")
    model = small_dof_trajectory(spec)
    batch = small_windows(model, size=64)
    assert batch.legal is not None
    assert bool(model.losses(batch, generator())["loss"].isfinite())
    legal = batch.legal[:, :, HISTORY]
    actor = model.policy()
    carry = actor.initial_carry(64, torch.device("cpu"))
    actions, _ = actor.act_on_noise(batch.observations[:, :, HISTORY], carry, legal, actor.draw_noise(64, generator()))
    assert actions.dtype == torch.int64
    assert bool(legal.gather(-1, actions[..., None]).all())


def test_an_action_that_was_taken_counts_as_legal() -> None:
    """Dead agents' rows may have no legal action; the loss stays finite, and is 0 there."""
    model = small_dof_trajectory(small_spec((3, 2, 4), action_kind="discrete"))
    batch = small_windows(model)
    assert batch.legal is not None
    batch.legal[:] = False
    batch.transition_mask[:] = False
    assert float(model.losses(batch, generator())["loss/inverse"].detach()) == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 1}, "algorithm.horizon=1 must be at least 2"),
        ({"history": -1}, "algorithm.history=-1 must be at least 0"),
        ({"return_dropout": 0.0}, "return_dropout above 0, or guidance_weight=1"),
        ({"return_update": "guess"}, "algorithm.return_update=guess is unknown; choose one of none, time, reward"),
        ({"reconstruction_weight": 0.0}, "data_factorization=concat"),
        ({"target_quantile": 1.5}, "algorithm.target_quantile=1.5 must be between 0 and 1"),
        ({"noise_factorization": noise.Attention}, "noise_factorization: Attention cannot run locally"),
        ({"noise_factorization": noise.QMix, "execution": "centralized"}, "noise_factorization=qmix makes its weights"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        small_dof_trajectory(**changes)
