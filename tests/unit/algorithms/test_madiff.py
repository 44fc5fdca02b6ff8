"""MADIFF-D knows of one ego what that ego knows, in training as in execution; MADIFF-C is marked centralised."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.algorithms.dof_trajectory import DoFTrajectorySettings
from dof_lightning.algorithms.madiff import DecentralizedMADIFFSettings
from dof_lightning.checkpoints.export import write_agent
from dof_lightning.deployment.agent import load_agent
from dof_lightning.deployment.program import trace
from dof_lightning.deployment.structure import describe
from dof_lightning.errors import UserError
from dof_lightning.evaluation.igd import has_joint_chain
from dof_lightning.factorization import data, noise
from dof_lightning.networks.attention_unet import AttentionUNetSettings
from dof_lightning.networks.inverse import InverseDynamics
from tests.fixtures.agent_files import about_agent
from tests.fixtures.policy_models import generator
from tests.fixtures.small_spec import small_spec
from tests.fixtures.trajectory_models import HISTORY, HORIZON, small_dof_trajectory, small_unet, small_windows

T = HISTORY + HORIZON
N = 3


def attention_unet(**changes: Any) -> AttentionUNetSettings:
    return AttentionUNetSettings(**({"channels": 8, "norm_groups": 4, "embedding": 8, "heads": 2} | changes))


def small_madiff(kind: type[DoFTrajectorySettings] = DecentralizedMADIFFSettings, **changes: Any) -> Any:
    """Agents that meet: every gamma is 0.5."""
    settings = {"kind": kind, "denoiser": attention_unet(), "noise_factorization": noise.Concat} | changes
    model = small_dof_trajectory(**({"data_factorization": data.Concat} | settings))
    for network in (model.denoiser, model.average_denoiser):
        for meeting in getattr(network, "meetings", ()):
            meeting.gamma.data += 0.5
    return model


def decide(policy: Any, observations: Tensor, draws: Tensor) -> Tensor:
    actions, _ = policy.act_on_noise(observations, policy.initial_carry(len(draws), torch.device("cpu")), None, draws)
    return actions.detach()


def test_the_network_sees_one_ego_and_noise_in_place_of_what_its_teammates_saw() -> None:
    model = small_madiff()
    batch, seen = small_windows(model, size=64), []
    model.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    model.losses(batch, generator())
    x, _, condition = seen[0]
    x0 = model.normalizer.normalize(batch.observations[:, :, :-1])
    known = torch.isclose(x, x0).all(-1)  # [B, N, T]
    ego = known[:, :, : HISTORY + 1].all(-1)
    assert bool((ego.sum(1) == 1).all())
    assert bool(ego.any(0).all()), "every agent is the ego somewhere"
    assert not known[~ego].any()
    assert not known[:, :, HISTORY + 1 :].any()
    assert bool((condition[..., :2] == condition[:, :1, :2]).all()), "all rows ask for one return"
    assert torch.equal(condition[..., 2].bool(), ego), "the ego's row is told that it is the ego's"
    asks = condition[:, 0, 1] == 1
    returns = batch.return_to_go[:, :, HISTORY][ego] / model.returns_scale
    assert torch.equal(condition[asks, 0, 0], returns[asks])


@pytest.mark.parametrize("next_row_weight", [1.0, 5.0])
def test_a_full_batchs_loss_is_a_mean(next_row_weight: float) -> None:
    model = small_madiff(next_row_weight=next_row_weight)
    batch = small_windows(model, size=512)
    batch.diffusion_mask[:] = torch.arange(T) > HISTORY
    for parameter in model.denoiser.parameters():
        parameter.data.zero_()  # predicts no noise, so the mean squared error is the noise's variance
    assert float(model.losses(batch, generator())["loss/diffusion"].detach()) == pytest.approx(1.0, abs=0.05)


def test_what_teammates_saw_teaches_where_nothing_lies_ahead() -> None:
    model = small_madiff()
    batch = small_windows(model, size=64)
    batch.diffusion_mask[:] = False
    losses = model.heldout_losses(batch, generator())
    assert all(float(losses[f"heldout/diffusion_agent_{i}"]) > 0.1 for i in range(N))
    centralized = small_madiff(DoFTrajectorySettings, execution="centralized")
    assert float(centralized.heldout_losses(batch, generator())["heldout/diffusion"].detach()) == 0.0


@pytest.mark.parametrize("f", [noise.Concat, noise.WConcat])
@pytest.mark.parametrize("h", [data.Concat, data.WConcat])
def test_an_egos_action_is_the_same_whatever_others_see(f: Any, h: Any) -> None:
    policy = small_madiff(noise_factorization=f, data_factorization=h).policy()
    draws = policy.draw_noise(6, generator(1))
    observations = torch.randn(6, N, 4, generator=generator(2))
    before = decide(policy, observations, draws)
    for i in range(N):
        others = torch.arange(N) != i
        changed, redrawn = observations.clone(), draws.clone()
        changed[:, others] += 1.0
        redrawn[:, others] = policy.draw_noise(6, generator(3))[:, others]
        after = decide(policy, changed, redrawn)
        assert torch.equal(after[:, i], before[:, i])
        assert not torch.equal(after[:, others], before[:, others])


def test_an_ego_knows_its_own_row_with_and_without_the_return() -> None:
    policy, seen = small_madiff(guidance_weight=3.0).policy(), []
    policy.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    decide(policy, torch.randn(6, N, 4, generator=generator(2)), policy.draw_noise(6, generator(1)))
    without, following = seen[0].reshape(2, 6, N, N, 3)  # [E, egos, N, C]
    assert not without[..., :2].any()
    assert bool((following[..., 1] == 1).all())
    for condition in (without, following):
        assert torch.equal(condition[..., 2], torch.eye(N).expand(6, N, N))


def test_imagined_teammates_matter() -> None:
    policy = small_madiff().policy()
    draws = policy.draw_noise(6, generator(1))
    assert draws.shape == (6, N, policy.sampler.n_noises, N, T, 4)
    observations, redrawn = torch.randn(6, N, 4, generator=generator(2)), draws.clone()
    redrawn[:, 0, :, 1] = policy.draw_noise(6, generator(3))[:, 0, :, 1]
    changed = decide(policy, observations, redrawn) != decide(policy, observations, draws)
    assert bool(changed[:, 0].any())
    assert not changed[:, 1:].any()


def test_an_exported_agent_holds_the_shared_network_and_nothing_else_of_the_others() -> None:
    model = small_madiff(data_factorization=data.WConcat, denoiser=attention_unet(agent_embedding=4))
    before = [describe(model.policy().export(i)) for i in range(N)]
    with torch.no_grad():
        own = (*model.average_inverse.parameters(), *model.average_data_factorization.parameters())
        for tensor in own:
            tensor[1:] += 1.0
    after = [describe(model.policy().export(i)) for i in range(N)]
    same = [all(torch.equal(a[1][name], b[1][name]) for name in a[1]) for a, b in zip(before, after, strict=True)]
    assert same == [True, False, False]
    shared = model.average_denoiser.state_dict()
    assert all(torch.equal(before[2][1][f"denoiser.{name}"], tensor) for name, tensor in shared.items())


@pytest.mark.parametrize("changes", [{}, {"return_update": "time", "observation_normalizer": "gaussian"}])
def test_agents_from_their_files_act_as_the_team_throughout_an_episode(tmp_path: Path, changes: dict) -> None:
    policy = small_madiff(**changes).policy()
    agents = [load_agent(write_agent(tmp_path, policy.export(i), about_agent(i))) for i in range(N)]
    for agent in agents:
        agent.reset(0)
    carry = policy.initial_carry(8, torch.device("cpu"))
    for step in range(3):
        observations = torch.randn(8, N, 4, generator=generator(step))
        draws = policy.draw_noise(8, generator(10 + step))
        together, carry = policy.act_on_noise(observations, carry, None, draws)
        for i, agent in enumerate(agents):
            alone = agent.act_on_noise(observations[:, i], draws[:, i])
            torch.testing.assert_close(alone, together[:, i, : agent.action_dim].detach(), rtol=1e-4, atol=1e-4)


def test_without_memory_a_program_decides_for_any_number_of_episodes(tmp_path: Path) -> None:
    policy = small_madiff(history=0).policy()
    agent = load_agent(write_agent(tmp_path, policy.export(1), about_agent(1)))
    program = trace(agent).module()
    for episodes in (1, 5):
        observation = torch.randn(episodes, 4, generator=generator())
        draws = policy.draw_noise(episodes, generator(1))[:, 1]
        agent.reset(0)
        torch.testing.assert_close(program(observation, draws), agent.act_on_noise(observation, draws))


def test_where_agents_meet_a_return_is_left_out_for_all_of_them_or_none() -> None:
    model = small_madiff(DoFTrajectorySettings, execution="centralized", return_dropout=0.5)
    seen: list[Tensor] = []
    model.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    model.losses(small_windows(model, size=64), generator())
    asks = seen[0][..., 1]
    assert bool((asks == asks[:, :1]).all())
    assert 0 < float(asks.mean()) < 1


def test_the_joint_chain_acts_on_all_histories_and_says_so() -> None:
    policy = small_madiff(DoFTrajectorySettings, execution="centralized").policy()
    assert not policy.acts_alone
    draws, observations = policy.draw_noise(6, generator(1)), torch.randn(6, N, 4, generator=generator(2))
    before = decide(policy, observations, draws)
    observations[:, 0] += 1.0
    assert bool((decide(policy, observations, draws) != before)[:, 1:].any())
    with pytest.raises(UserError, match="nothing to export"):
        policy.export(0)


def test_joint_inverse_dynamics_reads_all_agents_and_learns_legal_choices() -> None:
    joint = partial(InverseDynamics, hidden=(16,), sharing="joint")
    spec = small_spec((3, 2, 4), action_kind="discrete")
    model = small_madiff(DoFTrajectorySettings, spec=spec, execution="centralized", inverse=joint)
    batch = small_windows(model)
    assert bool(model.losses(batch, generator())["loss/inverse"].isfinite())
    now, following = torch.randn(2, 5, N, 4, generator=generator()).unbind()
    before = model.inverse(now, following)
    now[:, 0] += 1.0
    assert bool((model.inverse(now, following) != before)[:, 1].any())
    assert not model.inverse(now, following)[:, 1, 2:].any()


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (
            DoFTrajectorySettings,
            {},
            "denoiser: AttentionUNet cannot run locally.*algorithm=madiff_d.*execution=centralized",
        ),
        (DecentralizedMADIFFSettings, {"execution": "centralized"}, "algorithm=madiff_c"),
        (DecentralizedMADIFFSettings, {"denoiser": small_unet(sharing="shared")}, "denoiser=attention_unet"),
        (DecentralizedMADIFFSettings, {"denoiser": attention_unet(sharing="independent")}, "denoiser.sharing=shared"),
        (
            DecentralizedMADIFFSettings,
            {"inverse": partial(InverseDynamics, sharing="joint")},
            r"algorithm\.inverse\.sharing.*choose independent or shared",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(kind: Any, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        small_madiff(kind, **changes)


def test_the_igd_gauge_does_not_take_imagined_teams_for_a_joint_chain() -> None:
    assert not has_joint_chain(small_madiff().policy())
    assert has_joint_chain(small_dof_trajectory().policy())
