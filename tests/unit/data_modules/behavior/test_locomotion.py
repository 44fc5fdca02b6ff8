"""The online training of robots, and the behaviours made of it."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.behavior.actor_bank import GaussianBehavior
from data_modules.behavior.robots import RobotSnapshot
from data_modules.behavior.snapshots import WEIGHTS, Snapshot, load_actors, read_story, snapshot_names
from data_modules.behavior.training import train_locomotion
from data_modules.behavior.training.locomotion_matd3 import LocomotionMATD3, LocomotionSettings
from data_modules.behavior.training.matd3 import ReplayBuffer
from data_modules.behavior.training.train_locomotion import EXPLORATION_NOISE, ROBOTS, Robot, RobotTraining
from dof_lightning.config import compose as configuration
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.mamujoco import MaMuJoCoEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from tests.fixtures.toy_world import ACTION_DIM, HORIZON, N_AGENTS, OBSERVATION_DIM, ToyEnv

SMALL = LocomotionSettings(
    n_environments=4,
    batch_size=16,
    buffer_size=50,
    warmup=30,
    actor_hidden=8,
    critic_hidden=8,
    updates_per_transition=1,
)


SHIPPED = [task for task in ROBOTS if (WEIGHTS / f"{task}.safetensors").exists()]


def make_env(task: str) -> VectorEnv:
    env: VectorEnv = configuration.build(configuration.compose(["experiment=mpe_spread_random", f"env={task}"])["env"])
    return env


def learner(early: bool = True, seed: int = 0) -> LocomotionMATD3:
    return LocomotionMATD3(ToyEnv(early=early), SMALL, seed)


def constant_critics(made: LocomotionMATD3, values: tuple[float, float]) -> None:
    for parameter in made.target_critics.parameters():
        parameter.data.zero_()
    made.target_critics.layers[-1].bias.data.copy_(torch.tensor(values).view(2, 1, 1))


def test_nothing_follows_a_real_end_but_something_a_time_limit() -> None:
    made = learner()
    constant_critics(made, (5.0, 3.0))
    following = torch.randn(2, N_AGENTS, OBSERVATION_DIM, generator=torch.Generator().manual_seed(0))
    target = made._target(torch.tensor([1.0, 1.0]), following, torch.tensor([True, False]))
    torch.testing.assert_close(target, torch.tensor([1.0, 1.0 + SMALL.discount * 3.0]))


@pytest.mark.parametrize("early", [True, False])
def test_only_steps_of_running_episodes_are_remembered(monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    """An episode of the toy ends after 1 + seed % HORIZON steps."""
    made = learner(early=early)
    seeds = torch.arange(4)
    monkeypatch.setattr(made, "episode_seeds", lambda begun: seeds)
    lengths = [1, 2, 3, 4] if early else [HORIZON] * 4
    list(itertools.islice(made.train(1), max(lengths)))
    assert made.transitions == made.buffer.size == sum(lengths)
    assert int(made.buffer.terminated.sum()) == (4 if early else 0)


def test_updates_keep_pace_with_transitions() -> None:
    made = learner()
    for done in made.train(20):
        assert done == made.updates == max(made.transitions - SMALL.warmup, 0)
    assert 20 <= made.updates < 20 + SMALL.n_environments


def test_same_seed_trains_the_same_actors() -> None:
    weights = []
    for seed in (0, 0, 1):
        made = learner(seed=seed)
        list(made.train(10))
        weights.append(torch.cat([p.flatten() for p in made.actors.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_full_buffer_goes_on_from_its_start_whatever_the_number_of_rows() -> None:
    buffer = ReplayBuffer(capacity=5, n_agents=1, observation_dim=1, action_dim=1)
    for first, count in ((0, 3), (3, 1), (4, 3)):
        rewards = torch.arange(first, first + count).float()
        rows = rewards[:, None, None]
        buffer.add(rows, rows, rewards, rows + 1, rewards == 5.0)
    observations, _, rewards, following, terminated = buffer.sample(300, torch.Generator().manual_seed(0))
    assert set(rewards.tolist()) == {2.0, 3.0, 4.0, 5.0, 6.0}
    assert torch.equal(observations[:, 0, 0], rewards)
    assert torch.equal(following[:, 0, 0], rewards + 1)
    assert torch.equal(terminated, rewards == 5.0)


@pytest.mark.parametrize(("good_return", "name"), [(None, "best"), (350.0, "good"), (450.0, "best")])
def test_a_snapshot_is_good_only_from_its_return_on(good_return: float | None, name: str) -> None:
    history = [Snapshot(10 * i, value, 1.0, {}) for i, value in enumerate([-5.0, 90.0, 250.0, 400.0, 130.0])]
    chosen = Robot("Ant", "2x4", {"poor": 100.0, "medium": 200.0}, good_return).choose(history)
    assert {key: snapshot.return_mean for key, snapshot in chosen.items()} == {
        "poor": 90.0,
        "medium": 250.0,
        name: 400.0,
    }


def test_every_robot_is_an_environment() -> None:
    for task, robot in ROBOTS.items():
        cfg = configuration.compose(["experiment=mpe_spread_random", f"env={task}"])["env"]
        assert (cfg.scenario, cfg.agent_conf, cfg.agent_obsk) == (robot.scenario, robot.agent_conf, 1)


@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_weights_are_small_and_of_this_environment(task: str) -> None:
    env, story = make_env(task), read_story(task)
    assert story["environment_fingerprint"] == env.spec.fingerprint
    assert (WEIGHTS / f"{task}.safetensors").stat().st_size < 1_000_000
    for quality in snapshot_names(task):
        (policy,) = RobotSnapshot(quality, EXPLORATION_NOISE).policies(env.spec)
        assert (policy.n_agents, policy.action_dim) == (env.spec.n_agents, env.spec.action_dim)


def returns_beside_its_story(task: str, quality: str, episodes: int) -> None:
    """The returns on other episodes than those that selected the snapshot, beside those of its story."""
    env, told = make_env(task), read_story(task)["snapshots"][quality]
    actors = load_actors(env.spec, quality)
    policy = GaussianBehavior(actors, env.spec.n_agents, env.spec.action_dim, EXPLORATION_NOISE)
    returns = run_rollout(policy, env, evaluation_seeds(7, "report", episodes), ("test",)).returns
    spread = max(told["return_std"], float(returns.std()))
    tolerance = 4 * spread * (1 / episodes + 1 / read_story(task)["evaluation_episodes"]) ** 0.5
    assert abs(float(returns.mean()) - told["return_mean"]) < tolerance


def test_the_best_half_cheetah_returns_what_its_story_says() -> None:
    best = snapshot_names("mamujoco_halfcheetah_2x3")[-1]
    returns_beside_its_story("mamujoco_halfcheetah_2x3", best, episodes=4)


@pytest.mark.slow
@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_snapshots_return_what_their_story_says(task: str) -> None:
    for quality in snapshot_names(task):
        returns_beside_its_story(task, quality, episodes=20)


def test_behaviors_act_alone() -> None:
    policy = GaussianBehavior(learner().actors, N_AGENTS, ACTION_DIM, EXPLORATION_NOISE)
    assert certify(policy, ToyEnv(early=True), seed=0).passed


def test_an_unknown_quality_names_those_that_there_are() -> None:
    spec = make_env("mamujoco_halfcheetah_2x3").spec
    with pytest.raises(UserError, match=r"quality='perfect'.* poor, medium"):
        RobotSnapshot("perfect", 0.2).identity(spec)


def test_the_training_command_writes_snapshots_that_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = "mamujoco_halfcheetah_2x3"
    monkeypatch.setattr(train_locomotion, "LocomotionSettings", lambda: SMALL)
    monkeypatch.setattr(train_locomotion, "MaMuJoCoEnv", partial(MaMuJoCoEnv, horizon=20))
    few = {"updates": 12, "evaluate_every": 4, "evaluation_episodes": 2}
    path = train_locomotion.main(RobotTraining(task=task, output=str(tmp_path / f"{task}.safetensors"), **few))
    assert path.exists()
    monkeypatch.setattr("data_modules.behavior.snapshots.WEIGHTS", tmp_path)
    assert read_story(task)["command"] == f"dof data train-behavior task={task} seed=1 updates=12"
    actors = load_actors(make_env(task).spec, "best")
    assert actors.network.layers[0].weight.shape == (2, 12, SMALL.actor_hidden)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"mamujoco_ant_2x4\.safetensors exists.*output="),
        ({"updates": 100, "output": "new.safetensors"}, "evaluate_every=2000"),
        ({"output": "nowhere/new.safetensors"}, "nowhere is no folder"),
        ({"task": "mamujoco_cat"}, "not a robot; choose one of mamujoco_halfcheetah_2x3"),
    ],
)
def test_training_refuses_at_once_what_would_be_lost_at_the_end(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(train_locomotion, "LocomotionMATD3", None)  # nothing is trained
    with pytest.raises(UserError, match=words):
        train_locomotion.main(RobotTraining(**({"task": "mamujoco_ant_2x4"} | arguments)))
