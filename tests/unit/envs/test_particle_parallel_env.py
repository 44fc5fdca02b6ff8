"""Our particle world through PettingZoo's own checks."""

import warnings

import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test

from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from dof_lightning.envs.particle.parallel_env import ParticleParallelEnv

TASKS = ("spread", "tag", "world")


@pytest.mark.parametrize("task", TASKS)
def test_pettingzoos_api_test_passes_without_a_warning(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(ParticleParallelEnv(task), num_cycles=2 * HORIZON)


@pytest.mark.parametrize("task", TASKS)
def test_pettingzoos_seed_test_passes(task: str) -> None:
    parallel_seed_test(lambda: ParticleParallelEnv(task), num_cycles=HORIZON)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_is_the_same_episode_as_in_our_environment(task: str) -> None:
    wrapped, env = ParticleParallelEnv(task), ParticleEnv(task)
    observations, _ = wrapped.reset(seed=41)
    np.testing.assert_array_equal(np.stack(list(observations.values())), env.reset(torch.tensor([41]))[0])
    for t in range(HORIZON):
        observations, rewards, terminations, truncations, _ = wrapped.step(
            {agent: np.full(2, 0.3, np.float32) for agent in wrapped.agents}
        )
        result = env.step(torch.full((1, 3, 2), 0.3))
        np.testing.assert_array_equal(np.stack(list(observations.values())), result.observations[0])
        np.testing.assert_array_equal(np.array(list(rewards.values()), np.float32), result.rewards[0])
        assert not any(terminations.values())
        assert all(truncations.values()) == (t == HORIZON - 1)
    assert wrapped.agents == []
    with pytest.raises(RuntimeError, match="reset"):
        wrapped.step({})


def test_episodes_without_a_seed_differ_and_follow_from_the_last_seed() -> None:
    first, second = ParticleParallelEnv(), ParticleParallelEnv()
    starts = []
    for env in (first, second):
        env.reset(seed=1)
        starts.append([env.reset()[0]["agent_0"] for _ in range(2)])
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0][0], starts[0][1])


def test_render_modes() -> None:
    env = ParticleParallelEnv(render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (400, 400, 3)
    silent = ParticleParallelEnv()
    silent.reset(seed=0)
    assert silent.render() is None
