"""The particle world's contract: episodes are functions of seeds and actions, rewards are those of the tasks."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

TASKS = ("spread", "tag", "world")
OBSERVATION_DIMS = {"spread": 18, "tag": 16, "world": 24}


def actions_for(n_episodes: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(HORIZON, n_episodes, 3, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def roll_out(env: ParticleEnv, seeds: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    observations, rewards = [env.reset(seeds)], []
    for action in actions:
        result = env.step(action)
        observations.append(result.observations)
        rewards.append(result.rewards)
    return torch.stack(observations), torch.stack(rewards)


@pytest.mark.parametrize("task", TASKS)
def test_shapes_dtypes_and_time_limit(task: str) -> None:
    env = ParticleEnv(task)
    assert env.spec.name == f"mpe_{task}"
    assert env.reset(torch.arange(5)).shape == (5, 3, OBSERVATION_DIMS[task]) == (5, 3, env.spec.observation_dim)
    for t, action in enumerate(actions_for(5)):
        result = env.step(action)
        assert result.observations.shape == (5, 3, OBSERVATION_DIMS[task])
        assert result.rewards.shape == (5, 3)
        assert result.observations.dtype == result.rewards.dtype == torch.float32
        assert result.terminated.dtype == result.truncated.dtype == torch.bool
        assert not result.terminated.any()
        assert (result.truncated == (t == HORIZON - 1)).all()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(actions_for(5)[0])


@pytest.mark.parametrize(
    ("task", "prey", "dtype"),
    [
        ("spread", None, torch.float32),
        ("tag", "scripted", torch.float32),
        ("world", "scripted", torch.float32),
        # A matrix product rounds as the number of its columns pleases, and contacts magnify that: hence float64.
        ("tag", "trained", torch.float64),
        ("world", "trained", torch.float64),
    ],
)
def test_a_batch_of_episodes_equals_the_episodes_one_by_one(task: str, prey: str | None, dtype: torch.dtype) -> None:
    env = ParticleEnv(task, prey=prey, dtype=dtype)
    seeds, actions = torch.tensor([3, 14, 15, 92, 65, 35, 89]), actions_for(7)
    observations, rewards = roll_out(env, seeds, actions)
    for e in range(7):
        alone = roll_out(env, seeds[e : e + 1], actions[:, e : e + 1])
        torch.testing.assert_close(alone[0], observations[:, e : e + 1], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone[1], rewards[:, e : e + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_episode_and_different_seeds_differ(task: str) -> None:
    env, actions = ParticleEnv(task), actions_for(2)
    first, second = roll_out(env, torch.tensor([5, 6]), actions), roll_out(env, torch.tensor([5, 6]), actions)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0][0, 0], first[0][0, 1])


@pytest.mark.parametrize(("task", "landmark_range"), [("spread", 1.0), ("tag", 0.9), ("world", 0.9)])
def test_episodes_start_at_rest_and_fill_their_range(task: str, landmark_range: float) -> None:
    env = ParticleEnv(task)
    env.reset(torch.arange(4000))
    assert (env.velocities == 0).all()
    for places, extent in ((env.positions, 1.0), (env.landmarks, landmark_range)):
        assert 0.99 * extent < places.abs().max() <= extent
        assert places.mean(dim=(0, 1)).abs().max() < 0.05


def test_earlier_results_do_not_change_when_the_episode_goes_on() -> None:
    env = ParticleEnv("tag")
    env.reset(torch.arange(2))
    result, positions = env.step(actions_for(2)[0]), env.positions
    kept = [t.clone() for t in (result.observations, result.rewards, result.info.extra_observations, positions)]
    env.step(actions_for(2)[1])
    now = (result.observations, result.rewards, result.info.extra_observations, positions)
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


def test_actors_graph_is_not_kept() -> None:
    env = ParticleEnv()
    env.reset(torch.arange(2))
    result = env.step(torch.zeros(2, 3, 2, requires_grad=True))
    assert not result.observations.requires_grad
    assert not result.rewards.requires_grad


@pytest.mark.parametrize("shape", [(2, 3), (3, 3, 2), (2, 2, 2), (2, 3, 5)])
def test_actions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    env = ParticleEnv()
    env.reset(torch.arange(2))
    with pytest.raises(ValueError, match="shape"):
        env.step(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_actions_that_are_not_finite_are_refused(value: float) -> None:
    env = ParticleEnv()
    env.reset(torch.arange(2))
    actions = torch.zeros(2, 3, 2)
    actions[1, 2, 0] = value
    with pytest.raises(ValueError, match="finite"):
        env.step(actions)


def test_large_actions_are_clipped_even_where_their_sum_overflows() -> None:
    large, unit = ParticleEnv(), ParticleEnv()
    large.reset(torch.arange(2))
    unit.reset(torch.arange(2))
    torch.testing.assert_close(
        large.step(torch.full((2, 3, 2), 3e38)).observations, unit.step(torch.ones(2, 3, 2)).observations
    )


def test_spread_reward_by_hand() -> None:
    """Nearest distances 0.05 (capped at 10), 0.5 and 2.0; agents 0 and 1 touch."""
    env = ParticleEnv()
    positions = torch.tensor([[[0.0, 0.0], [0.2, 0.0], [0.0, -1.0]]])
    landmarks = torch.tensor([[[0.0, 0.05], [0.0, -1.5], [2.2, 0.0]]])
    env.reset_to(positions, torch.zeros(1, 3, 2), landmarks)
    rewards = env._scenario.rewards(env._world)[:, 0]
    torch.testing.assert_close(rewards, torch.tensor([7.5, 7.5, 12.5]))


def test_an_agent_sees_what_is_near_and_is_told_which_landmarks_are() -> None:
    """The world itself is the same; agents only see less of it."""
    near, all_of_it = ParticleEnv(sight=0.8), ParticleEnv()
    seen, rewards = roll_out(near, torch.arange(50), actions_for(50))
    everything, others_rewards = roll_out(all_of_it, torch.arange(50), actions_for(50))
    assert torch.equal(rewards, others_rewards)
    assert torch.equal(seen[..., :4], everything[..., :4])
    things = everything[..., 4:14].unflatten(-1, (5, 2))
    in_sight = things.norm(dim=-1) <= 0.8
    assert 0.1 < in_sight.float().mean() < 0.9
    assert torch.equal(seen[..., 4:14].unflatten(-1, (5, 2)), things * in_sight[..., None])
    assert torch.equal(seen[..., 14:17], in_sight[..., :3].float())
    assert not seen[..., 17].any()
    assert near.reset_like(seen[0]) is None, "what nobody sees cannot be set"


def test_agents_of_a_team_have_their_own_sizes_and_forces() -> None:
    """Agents 0 and 1 touch at 0.1 + 0.2; agent 0's force moves it 0.1 * 7 * 0.1 in a step, from rest."""
    env = ParticleEnv(team=[[0.1, 7.0], [0.2, 3.0], [0.15, 5.0]])
    landmarks = torch.full((1, 3, 2), 9.0)
    for distance, fine in ((0.29, 5.0), (0.31, 0.0)):
        env.reset_to(torch.tensor([[[0.0, 0.0], [distance, 0.0], [5.0, 0.0]]]), torch.zeros(1, 3, 2), landmarks)
        rewards = env._scenario.rewards(env._world)[:, 0]
        torch.testing.assert_close(rewards[2] - rewards, torch.tensor([fine, fine, 0.0]))
    env.reset_to(torch.tensor([[[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]]]), torch.zeros(1, 3, 2), landmarks)
    env.step(torch.tensor([[[1.0, 0.0]] * 3]))
    torch.testing.assert_close(env.velocities[0, :, 0], torch.tensor([0.7, 0.3, 0.5]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sight": 0.0}, "env.sight=0.0 must be"),
        ({"sight": float("nan")}, "env.sight=nan must be"),
        ({"team": [[0.1, 5.0]]}, "env.team.* 3 pairs"),
        ({"team": [[0.1, 5.0], [0.1, -5.0], [0.1, 5.0]]}, "env.team.*positive"),
        ({"team": [[0.1, 5.0], [0.1], [0.1, 5.0]]}, "env.team.*pairs"),
        ({"task": "tag", "sight": 1.0}, "env.sight=1.0.*spread"),
        ({"task": "world", "team": [[0.1, 5.0]] * 3}, "env.team.*spread"),
    ],
)
def test_teams_and_sights_that_cannot_be_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ParticleEnv(**arguments)


def test_a_free_step_by_hand() -> None:
    """v = 0.75 * 0.4 + 5 * 1 * 0.1 = 0.8, x = 0.1 * 0.8: the force moves the agent within the same step."""
    env = ParticleEnv()
    far = torch.tensor([[[0.0, 0.0], [5.0, 5.0], [-5.0, 5.0]]])
    env.reset_to(far, torch.tensor([[[0.4, 0.0], [0.0, 0.0], [0.0, 0.0]]]), far)
    env.step(torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]))
    torch.testing.assert_close(env.velocities[0, 0], torch.tensor([0.8, 0.0]))
    torch.testing.assert_close(env.positions[0, 0], torch.tensor([0.08, 0.0]))


@pytest.mark.parametrize(("task", "hit"), [("tag", 10.0), ("world", 5.0)])
def test_predators_share_hits_and_distances(task: str, hit: float) -> None:
    """Predator 0 rests on the prey's edge at 0.1, the others at 3 and 4, all out of the obstacles' reach."""
    env = ParticleEnv(task, prey="still")
    positions = torch.tensor([[[0.1, 0.0], [3.0, 0.0], [-4.0, 0.0], [0.0, 0.0]]])
    landmarks = torch.full((1, {"tag": 2, "world": 5}[task], 2), 9.0)
    env.reset_to(positions, torch.zeros(1, 4, 2), landmarks)
    rewards = env._scenario.rewards(env._world)[:, 0]
    torch.testing.assert_close(rewards, torch.full((3,), hit - 0.1 * 7.1))


@pytest.mark.parametrize("task", TASKS)
def test_renaming_agents_renames_results(task: str) -> None:
    prey = None if task == "spread" else "scripted"  # which does not care who is who; a network does
    env, order = ParticleEnv(task, prey=prey), torch.tensor([2, 0, 1])
    env.reset(torch.arange(6))
    everyone = torch.cat((order, torch.arange(3, env.positions.shape[1])))
    positions, velocities, landmarks, action = env.positions, env.velocities, env.landmarks, actions_for(6)[0]
    result = env.step(action)
    other = ParticleEnv(task, prey=prey)
    other.reset_to(positions[:, everyone], velocities[:, everyone], landmarks)
    renamed = other.step(action[:, order])
    torch.testing.assert_close(renamed.rewards, result.rewards[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.positions, env.positions[:, everyone], atol=1e-6, rtol=0)
    own = slice(0, 4)
    torch.testing.assert_close(
        renamed.observations[..., own], result.observations[:, order][..., own], atol=1e-6, rtol=0
    )


def test_recipes_are_json_and_tell_environments_apart() -> None:
    environments = [ParticleEnv("spread"), ParticleEnv("tag"), ParticleEnv("tag", prey="still"), ParticleEnv("world")]
    environments += [ParticleEnv(sight=1.0), ParticleEnv(sight=2.0), ParticleEnv(team=[[0.1, 5.0]] * 3)]
    specs = [env.spec for env in environments]
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert ParticleEnv("tag", prey="trained").spec == ParticleEnv("tag").spec
    for spec in specs:
        stored = EnvSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert stored.fingerprint == spec.fingerprint
        assert spec.recipe["variant"] == "omar"
        assert spec.recipe["horizon"] == HORIZON


def test_published_scores_normalise_and_name_their_prey() -> None:
    reference = ParticleEnv("spread").spec.reference
    assert reference is not None
    assert reference.normalize(159.8) == 0.0
    assert reference.normalize(516.8) == 100.0
    occluded = ParticleEnv(sight=1.0).spec.reference
    assert occluded is not None
    assert "there agents see everything" in occluded.source
    assert ParticleEnv(team=[[0.1, 5.0]] * 3).spec.reference is None, "nobody has published any"
    scripted = ParticleEnv("tag", prey="scripted").spec.reference
    assert scripted is not None
    assert (scripted.random, scripted.expert) == (-4.1, 185.6)
    assert "prey is scripted" in scripted.source


def test_unknown_task_is_a_user_error() -> None:
    with pytest.raises(UserError, match="spread, tag, world"):
        ParticleEnv("chess")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_render_shows_the_state(task: str) -> None:
    env = ParticleEnv(task)
    env.reset(torch.arange(2))
    first = env.render(0)
    assert first.shape == (400, 400, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, env.render(0))
    assert not np.array_equal(first, env.render(1))
    env.step(torch.ones(2, 3, 2))
    assert not np.array_equal(first, env.render(0))


def test_render_keeps_who_leaves_in_the_picture() -> None:
    env = ParticleEnv()
    far = torch.tensor([[[3.0, 0.0], [0.0, 0.5], [0.0, -0.5]]])
    env.reset_to(far, torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
    frame = env.render(0).astype(int)
    blue = (frame[..., 2] - frame[..., 0] > 80).any(axis=0).nonzero()[0]
    assert blue.max() > 380
