"""Behaviour policies: the shipped snapshots are what their story promises, and each agent acts alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from data_modules.behavior.actor_bank import ActorBank, GaussianBehavior, UniformBehavior, team_of
from data_modules.behavior.snapshots import (
    WEIGHTS,
    Snapshot,
    SnapshotChoice,
    load_actors,
    read_story,
    save_snapshots,
    snapshot_names,
)
from data_modules.behavior.sources import Experts, Snapshots
from data_modules.behavior.training.train_particle import swapped
from dof_lightning.config import compose as configuration
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import evaluation_seeds, run_rollout


@pytest.fixture(scope="module")
def spread() -> ParticleEnv:
    return ParticleEnv(task="spread")


def greedy_returns(env: ParticleEnv, snapshot: str, n_episodes: int) -> torch.Tensor:
    policy = GaussianBehavior(load_actors(env.spec, snapshot), 3, 2, exploration_noise=0.0)
    return run_rollout(policy, env, evaluation_seeds(7, "report", n_episodes), ("test",)).returns


def test_shipped_snapshots_return_what_their_story_says(spread: ParticleEnv) -> None:
    """They are played on other episodes than those that selected them, with their float16 weights."""
    story = read_story("mpe_spread")
    assert story["environment_fingerprint"] == spread.spec.fingerprint
    names = snapshot_names("mpe_spread")
    assert len(names) <= 10
    assert (WEIGHTS / "mpe_spread.safetensors").stat().st_size < 1_000_000
    for name in names:
        told, returns = story["snapshots"][name], greedy_returns(spread, name, 1000)
        tolerance = 4 * told["return_std"] * (1 / 1000 + 1 / story["evaluation_episodes"]) ** 0.5
        assert abs(returns.mean() - told["return_mean"]) < tolerance, name


def test_shipped_expert_and_medium_are_as_good_as_their_names(spread: ParticleEnv) -> None:
    assert greedy_returns(spread, "expert", 2000).mean() >= 517
    assert 250 <= greedy_returns(spread, "medium", 2000).mean() <= 300


@pytest.mark.parametrize("option", ["mpe_spread_experts", "mpe_spread_occluded", "mpe_spread_heterogeneous"])
def test_teams_of_other_data_return_what_their_story_says(option: str) -> None:
    cfg = configuration.compose([f"experiment={option}"])
    env: ParticleEnv = configuration.build(cfg.env)
    story = read_story(option)
    assert story["environment_fingerprint"] == env.spec.fingerprint
    assert (WEIGHTS / f"{option}.safetensors").stat().st_size < 200_000
    for name in snapshot_names(option):
        told = story["snapshots"][name]
        policy = GaussianBehavior(load_actors(env.spec, name, option), 3, 2, exploration_noise=0.0)
        returns = run_rollout(policy, env, evaluation_seeds(7, "report", 1000), ("test",)).returns
        tolerance = 4 * told["return_std"] * (1 / 1000 + 1 / story["evaluation_episodes"]) ** 0.5
        assert abs(returns.mean() - told["return_mean"]) < tolerance, name


def test_each_agent_of_a_mixed_team_acts_as_in_its_own_bank(spread: ParticleEnv) -> None:
    names = ("expert", "medium", "ladder_0")
    banks = [load_actors(spread.spec, name) for name in names]
    observations = torch.randn(5, 3, 18, generator=torch.Generator().manual_seed(0))
    mixed = team_of(banks)(observations)
    for agent, bank in enumerate(banks):
        torch.testing.assert_close(mixed[:, agent], bank(observations)[:, agent])
    assert torch.equal(banks[0](observations), load_actors(spread.spec, "expert")(observations)), "left as it was"


def test_a_team_with_swapped_landmarks_does_the_same_where_they_are_swapped() -> None:
    env = ParticleEnv(sight=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        bank = ActorBank(3, 18, 2)
    other = ActorBank(3, 18, 2)
    other.load_state_dict(swapped(Snapshot(0, 0.0, 0.0, bank.state_dict())).weights)
    observations = env.reset(torch.arange(20))
    twin = env.reset_to(env.positions, env.velocities, env.landmarks[:, [1, 0, 2]])
    torch.testing.assert_close(other(twin), bank(observations))
    assert not torch.equal(other(observations), bank(observations))


def places_taken(policy: DecentralizedPolicy, env: ParticleEnv, n_episodes: int) -> torch.Tensor:
    """`[E, N]`, the landmark that each agent ends nearest to."""
    run_rollout(policy, env, evaluation_seeds(3, "report", n_episodes), ("test",), chunk=n_episodes)
    return torch.cdist(env.positions, env.landmarks).argmin(-1)


def test_experts_have_habits_of_their_own(spread: ParticleEnv) -> None:
    """Each goes by one rule of who takes which landmark, and no two by the same."""
    rules = set()
    for policy in Experts().policies(spread.spec):
        taken, counts = places_taken(policy, spread, 100).unique(dim=0, return_counts=True)
        assert counts.max() >= 80
        rules.add(tuple(taken[counts.argmax()].tolist()))
    assert len(rules) == len(Experts().policies(spread.spec)) == 4


def test_agents_that_choose_their_habits_each_on_its_own_get_in_each_others_way(spread: ParticleEnv) -> None:
    """The return of a product of the experts' data: every combination of habits once, on the same episodes."""
    seeds = evaluation_seeds(3, "report", 20)
    together, each = (
        torch.cat([run_rollout(policy, spread, seeds, ("test",)).returns for policy in policies])
        for policies in (Experts().policies(spread.spec), Experts(habit="agent").policies(spread.spec))
    )
    assert len(each) == 20 * 4**3
    assert each.mean() < together.mean() - 50
    assert Experts().identity(spread.spec) != Experts(habit="agent").identity(spread.spec)


def test_noise_of_each_agent_is_its_own(spread: ParticleEnv) -> None:
    noisy = Snapshots("expert", exploration_noise=[0.0, 0.1, 1.0])
    (policy,) = noisy.policies(spread.spec)
    (usual,) = Snapshots("expert").policies(spread.spec)
    observations = torch.zeros(1000, 3, 18)
    noise = policy.draw_noise(1000, torch.Generator().manual_seed(0))
    actions, same = (one.act_on_noise(observations, None, None, noise)[0] for one in (policy, usual))
    greedy = load_actors(spread.spec, "expert")(observations)
    assert torch.equal(actions[:, 0], greedy[:, 0])
    assert torch.equal(actions[:, 1], same[:, 1])
    assert actions[:, 2].std(0).min() > 3 * same[:, 2].std(0).max()
    alone, _ = policy.export(2).act_on_noise(observations[:, 2:], None, None, noise[:, 2:])
    torch.testing.assert_close(alone, actions[:, 2:])
    assert noisy.identity(spread.spec)["exploration_noise"] == [0.0, 0.1, 1.0]
    for wrong in ([0.1, 0.1], [0.1, 0.1, -1.0], -0.1):
        with pytest.raises(UserError, match=r"exploration_noise=.*3 agents"):
            Snapshots("expert", exploration_noise=wrong).identity(spread.spec)


@pytest.mark.parametrize("quality", ["medium", "medium_replay"])
def test_a_quality_that_a_world_has_not_is_refused(quality: Literal["medium", "medium_replay"]) -> None:
    spec = ParticleEnv(team=[[0.1, 5.0]] * 3).spec
    with pytest.raises(UserError, match=f"quality={quality}: mpe_spread_heterogeneous has no .* expert"):
        Snapshots(quality).identity(spec)


def test_behaviors_act_alone(spread: ParticleEnv) -> None:
    bank = load_actors(spread.spec, "expert")
    for policy in (GaussianBehavior(bank, 3, 2, exploration_noise=0.1), UniformBehavior(spread.spec)):
        assert certify(policy, spread, seed=0).passed
        noise = policy.draw_noise(5, torch.Generator().manual_seed(0))
        observations = torch.randn(5, 3, 18, generator=torch.Generator().manual_seed(1))
        together, _ = policy.act_on_noise(observations, None, None, noise)
        alone, _ = policy.export(1).act_on_noise(observations[:, 1:2], None, None, noise[:, 1:2])
        torch.testing.assert_close(alone, together[:, 1:2])


def test_noise_is_drawn_where_its_generator_is(monkeypatch: pytest.MonkeyPatch, spread: ParticleEnv) -> None:
    devices = []

    def spy(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *shape, **options: devices.append(options.get("device")) or draw(*shape, **options)

    bank = load_actors(spread.spec, "expert")
    for name in ("randn", "rand"):
        monkeypatch.setattr(torch, name, spy(getattr(torch, name)))
    generator = torch.Generator().manual_seed(0)
    for policy in (GaussianBehavior(bank, 3, 2, exploration_noise=0.1), UniformBehavior(spread.spec)):
        policy.draw_noise(2, generator)
    assert devices == [generator.device] * 2


def test_missing_behavior_names_what_there_is() -> None:
    with pytest.raises(UserError, match=r"mpe_hide.*mpe_spread"):
        read_story("mpe_hide")


def test_snapshots_are_chosen_by_return() -> None:
    returns = [60.0, 100.0, 140.0, 200.0, 250.0, 300.0, 400.0, 560.0, 600.0]
    history = [Snapshot(10 * i, value, 1.0, {}) for i, value in enumerate(returns)]
    choice = SnapshotChoice(medium_return=280.0, expert_return=545.0, ladder_start=130.0, ladder_size=3)
    chosen = {name: snapshot.return_mean for name, snapshot in choice.choose(history).items()}
    assert chosen == {"ladder_0": 140.0, "ladder_1": 200.0, "ladder_2": 250.0, "medium": 300.0, "expert": 560.0}


def test_saved_snapshots_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: ParticleEnv) -> None:
    monkeypatch.setattr("data_modules.behavior.snapshots.WEIGHTS", tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        bank = ActorBank(3, 18, 2)
    save_snapshots(tmp_path / "mpe_spread.safetensors", {"only": Snapshot(5, 1.0, 2.0, bank.state_dict())}, {"seed": 3})
    assert read_story("mpe_spread") == {
        "seed": 3,
        "snapshots": {"only": {"updates": 5, "return_mean": 1.0, "return_std": 2.0}},
    }
    for name, value in load_actors(spread.spec, "only").state_dict().items():
        torch.testing.assert_close(value, bank.state_dict()[name].half().float())
