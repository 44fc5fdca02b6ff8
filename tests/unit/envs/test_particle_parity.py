"""Our batched particle world against an independent one built on mpe2's classes, contacts included."""

import numpy as np
import pytest
import torch

from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from tests.fixtures.particle_oracle import ParticleOracle

N_EPISODES = 12
# 0.4: nearly every episode starts with overlapping bodies. 1.2: free flight, and a prey out of bounds.
CROWDING = (0.4, 1.2)


def start(task: str, crowding: float) -> tuple[ParticleEnv, list[ParticleOracle], torch.Tensor]:
    env = ParticleEnv(task, dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    n_agents, n_landmarks = {"spread": (3, 3), "tag": (4, 2), "world": (4, 5)}[task]

    def uniform(n: int, scale: float) -> torch.Tensor:
        return (2 * torch.rand(N_EPISODES, n, 2, generator=generator, dtype=torch.float64) - 1) * scale

    positions, velocities, landmarks = uniform(n_agents, crowding), uniform(n_agents, 1.5), uniform(n_landmarks, 0.6)
    observations = env.reset_to(positions, velocities, landmarks)
    states = zip(positions.numpy(), velocities.numpy(), landmarks.numpy(), strict=True)
    return env, [ParticleOracle(task, *state) for state in states], observations


def stack(oracles: list[ParticleOracle], what: str) -> np.ndarray:
    return np.array([[getattr(oracle, what)(agent) for agent in range(3)] for oracle in oracles])


@pytest.mark.parametrize("crowding", CROWDING)
@pytest.mark.parametrize("task", ["spread", "tag", "world"])
def test_every_step_equals_the_oracle(task: str, crowding: float) -> None:
    env, oracles, observations = start(task, crowding)
    np.testing.assert_allclose(observations, stack(oracles, "observation"), atol=1e-12)
    generator = torch.Generator().manual_seed(11)
    for _ in range(HORIZON):
        actions = 3 * torch.rand(N_EPISODES, 3, 2, generator=generator, dtype=torch.float64) - 1.5
        result = env.step(actions)
        prey = result.info.extra_actions
        joint = actions if prey is None else torch.cat((actions, prey), dim=1)
        for oracle, action in zip(oracles, joint.numpy(), strict=True):
            oracle.step(action)
        np.testing.assert_allclose(env.positions, [oracle.positions for oracle in oracles], atol=1e-7)
        np.testing.assert_allclose(env.velocities, [oracle.velocities for oracle in oracles], atol=1e-7)
        np.testing.assert_allclose(result.observations, stack(oracles, "observation"), atol=1e-7)
        np.testing.assert_allclose(result.rewards, stack(oracles, "reward"), atol=1e-6)


@pytest.mark.parametrize("crowding", CROWDING)
@pytest.mark.parametrize("task", ["tag", "world"])
def test_what_the_prey_sees_and_earns_equals_the_oracle(task: str, crowding: float) -> None:
    env, oracles, _ = start(task, crowding)
    rewards = []
    for _ in range(HORIZON):
        info = env.step(torch.zeros(N_EPISODES, 3, 2)).info
        for oracle, prey in zip(oracles, info.extra_actions, strict=True):
            oracle.step(np.concatenate((np.zeros((3, 2)), prey.numpy())))
        seen = [[oracle.observation(3)] for oracle in oracles]
        np.testing.assert_allclose(info.extra_observations, seen, atol=1e-7)
        np.testing.assert_allclose(info.extra_rewards, [[oracle.reward(3)] for oracle in oracles], atol=1e-6)
        rewards.append(info.extra_rewards)
    assert torch.stack(rewards).std() > 0


@pytest.mark.parametrize("task", ["spread", "tag", "world"])
def test_the_crowded_starts_do_touch(task: str) -> None:
    """Guards the parity test: without contacts it would prove little."""
    _, oracles, _ = start(task, CROWDING[0])
    pushed = 0
    for oracle in oracles:
        entities = oracle.world.entities
        pairs = [(a, b) for i, a in enumerate(entities) for b in entities[i + 1 :] if a.collide and b.collide]
        pushed += any(np.linalg.norm(a.state.p_pos - b.state.p_pos) < a.size + b.size for a, b in pairs)
    assert pushed >= N_EPISODES // 2
