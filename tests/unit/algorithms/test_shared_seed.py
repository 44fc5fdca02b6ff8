"""A common seed: one an episode and the same for all, a mixture of products in law, and nothing where it is off."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dof_lightning.algorithms.parts.shared_seed import SharedSeedAssignment, balance
from dof_lightning.deployment.agent import load_agent
from dof_lightning.deployment.program import trace
from dof_lightning.diffusion.chain import guided_noise
from dof_lightning.diffusion.seed_conditioning import NO_SEEDS
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import run_rollout
from tests.fixtures.agent_files import write_agents
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy
from tests.fixtures.synthetic import synthetic_spec
from tests.fixtures.toy_world import ToyEnv
from tests.fixtures.trajectory_models import small_dof_trajectory, small_windows
from tests.fixtures.xor_models import distance_to_xor, draw_quadrants, small_xor_model, train_on_xor

CPU = torch.device("cpu")


def test_a_seed_of_two_values_represents_xor_data_and_without_it_agents_cannot() -> None:
    seeded, alone = small_xor_model(shared_seeds=2), small_xor_model()
    for model in (seeded, alone):
        train_on_xor(model, steps=500)
    assert distance_to_xor(draw_quadrants(seeded)) <= 0.1
    assert distance_to_xor(draw_quadrants(alone)) >= 0.45


@pytest.mark.slow
@pytest.mark.parametrize("shared_seeds", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_xor_over_seeds(shared_seeds: int, seed: int) -> None:
    model = small_xor_model(weights_seed=seed, shared_seeds=shared_seeds)
    train_on_xor(model, steps=800, seed=seed)
    assert distance_to_xor(draw_quadrants(model)) <= 0.1


def test_given_the_seed_no_agent_moves_with_anothers_noise() -> None:
    policy = small_xor_model(shared_seeds=2).policy()
    carry = policy.begin(4, CPU, torch.tensor([0, 1, 0, 1]))
    drawn = policy.draw_noise(4, generator())
    jacobian = torch.autograd.functional.jacobian(
        lambda eps: policy.act_on_noise(torch.zeros(4, 2, 1), carry, None, eps)[0].sum(0), drawn
    )
    assert float(jacobian[0, :, :, 1].abs().max()) == 0 == float(jacobian[1, :, :, 0].abs().max())
    assert float(jacobian[0, :, :, 0].abs().max()) > 0


@pytest.mark.parametrize("build", [small_dof_policy, small_dof_trajectory])
def test_the_seed_is_the_same_for_all_agents_and_all_steps_of_an_episode(build) -> None:
    policy = build(spec=synthetic_spec(), shared_seeds=5).policy()
    told = policy.draw_shared_seed(7, generator())
    carry = policy.begin(7, CPU, told)
    for step in range(3):
        _, carry = policy.act(torch.randn(7, 3, 4, generator=generator(step)), carry, None, generator(step))
        assert torch.equal(carry["shared_seed"], told[:, None].expand(-1, 3))
    with pytest.raises(ValueError, match="shared seed"):
        policy.begin(7, CPU, None)


@pytest.mark.parametrize("build", [small_dof_policy, small_dof_trajectory])
def test_agents_told_a_seed_still_act_alone_and_episodes_do_not_depend_on_their_number(build) -> None:
    policy = build(spec=synthetic_spec(), shared_seeds=3).policy()
    assert certify(policy, ToyEnv(), seed=0, n_episodes=4).passed
    seeds = torch.arange(8)
    every = run_rollout(policy, ToyEnv(), seeds, (0, "test"), chunk=4, record=True)
    later = run_rollout(policy, ToyEnv(), seeds[4:], (0, "test"), chunk=4, first_episode=4, record=True)
    assert torch.equal(every.actions[4:], later.actions)


def test_seeds_are_uniform_and_change_what_agents_do() -> None:
    policy = small_xor_model(shared_seeds=4).policy()
    counts = torch.bincount(policy.draw_shared_seed(8000, generator()), minlength=4)
    assert bool(((counts - 2000).abs() < 200).all())
    drawn = policy.draw_noise(1, generator()).expand(4, -1, -1, -1, -1)
    actions, _ = policy.act_on_noise(torch.zeros(4, 2, 1), policy.begin(4, CPU, torch.arange(4)), None, drawn)
    assert len(actions.unique(dim=0)) == 4


def test_off_is_what_it_was() -> None:
    """The same random numbers, the same weights: nothing is drawn and nothing is built for what is off."""
    for model, batch in (
        (small_dof_policy(), small_batch(synthetic_spec())),
        (small_dof_trajectory(), small_windows(small_dof_trajectory())),
    ):
        assert not [name for name in model.state_dict() if "seed" in name]
        assert model.policy().shared_seeds is None
        assert model.policy().draw_shared_seed(4, generator()) is None
        assert not [name for name in model.losses(batch, generator()) if "seed" in name]
    condition = torch.randn(2, 3, 4)
    assert NO_SEEDS.tell(condition, None) is condition


def test_the_same_generator_gives_the_same_seeds() -> None:
    for build, make in ((small_dof_policy, None), (small_dof_trajectory, small_windows)):
        model = build(shared_seeds=3)
        batch = small_batch(model.spec) if make is None else make(model)
        first, again, other = (model.losses(batch, generator(seed)) for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["loss"], other["loss"])


def test_balance_makes_every_seed_as_frequent_and_keeps_what_it_is_given() -> None:
    share = balance(5 * torch.randn(512, 4, generator=generator()) + torch.tensor([3.0, 0.0, 0.0, -3.0]))
    torch.testing.assert_close(share.mean(0), torch.full((4,), 0.25), atol=1e-3, rtol=0)
    torch.testing.assert_close(share.sum(1), torch.ones(512))


def test_the_potential_balances_where_errors_depend_on_the_conditioning_only() -> None:
    """Seed 0 is best where the coin is up, seed 1 where it is down: z must not tell what is observed."""
    part = SharedSeedAssignment(2, known_dim=2)
    optimizer = torch.optim.Adam(part.parameters(), lr=1e-2)
    coin = torch.randint(2, (256,), generator=generator()) * 2.0 - 1
    known = torch.stack([coin, -coin], dim=1)[:, :, None]
    errors = torch.stack([1 - 0.5 * coin, 1 + 0.5 * coin], dim=1).expand(4, -1, -1)
    for step in range(300):
        found = part.draw(errors, known, generator(step))
        optimizer.zero_grad()
        found.losses["loss/shared_seed"].backward()
        optimizer.step()
    seeds = found.shared_seed[:, 0].double()
    assert abs(float(seeds[coin > 0].mean()) - 0.5) < 0.15
    assert abs(float(seeds[coin < 0].mean()) - 0.5) < 0.15


def test_guidance_without_a_return_knows_the_seed() -> None:
    condition = torch.tensor([[[2.0, 1.0, 0.0, 1.0]]])
    seen: list[torch.Tensor] = []

    def denoiser(x: torch.Tensor, k: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        seen.append(condition)
        return x

    guided_noise(denoiser, torch.zeros(1, 1, 3), torch.ones(1), condition, 1.5, kept=2)
    assert seen[0].flatten(1).tolist() == [[0.0, 0.0, 0.0, 1.0], [2.0, 1.0, 0.0, 1.0]]


def test_the_model_samples_what_its_agents_do() -> None:
    model = small_dof_trajectory(shared_seeds=3)
    actor = model.policy().double()
    observations = torch.randn(3, actor.n_agents, model.spec.observation_dim, generator=generator()).double()
    told = actor.chain_condition(observations)
    chains = actor.chain_noise(3, generator(1))
    condition, known = actor._first_step(told)
    for own, models in ((actor.local_sample, model.double().local_sample), (actor.joint_sample, model.joint_sample)):
        torch.testing.assert_close(models(condition, chains, known=known), own(told, chains), rtol=0, atol=1e-9)


def test_exported_agents_find_the_same_seed_by_themselves(tmp_path: Path) -> None:
    policy = small_dof_policy(shared_seeds=1000).policy()
    agents = [load_agent(path) for path in write_agents(tmp_path, policy)]
    with pytest.raises(UserError, match="reset"):
        agents[0].act_on_noise(np.zeros(4, np.float32), torch.zeros(agents[0].record["noise_shape"]))
    told = set()
    for agent in agents:
        assert agent.record["shared_seeds"] == 1000
        agent.reset(7)
        agent.act(np.zeros(4, np.float32))
        told.add(int(agent._carry["shared_seed"]))
    assert len(told) == 1
    with pytest.raises(UserError, match="torch_export"):
        trace(agents[0])


def test_what_makes_no_mixture_of_products_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        small_dof_policy(shared_seeds=1)
    changes = cloning(noise_factorization=noise.Attention, execution="centralized")
    with pytest.raises(UserError, match=r"noise_factorization.*concat or wconcat"):
        small_dof_policy(shared_seeds=2, **changes)
    changes = cloning(data_factorization=data.Attention, execution="centralized", reconstruction_weight=1.0)
    with pytest.raises(UserError, match=r"data_factorization.*concat or wconcat"):
        small_dof_policy(shared_seeds=2, **changes)
