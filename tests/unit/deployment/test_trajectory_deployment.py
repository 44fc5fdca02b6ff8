"""Agents of DoF-Trajectory in files of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dof_lightning.checkpoints.export import write_agent
from dof_lightning.deployment.agent import load_agent
from dof_lightning.deployment.program import trace
from dof_lightning.errors import UserError
from tests.fixtures.policy_models import generator
from tests.fixtures.trajectory_models import small_dof_trajectory, small_unet
from tests.unit.deployment.test_deployment import about_agent

VARIANTS: dict[str, dict[str, Any]] = {
    "history": {},
    "no history": {"history": 0},
    "clock": {"history": 0, "return_update": "time"},
    "shared": {"denoiser": small_unet(sharing="shared", agent_embedding=4)},
    "unbounded": {"observation_normalizer": "gaussian"},
}


def write_agents(folder: Path, policy: Any) -> list[Path]:
    return [write_agent(folder, policy.export(i), about_agent(i)) for i in range(3)]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_agents_from_their_files_act_as_the_team_throughout_an_episode(tmp_path: Path, changes: dict[str, Any]) -> None:
    policy = small_dof_trajectory(**changes).policy()
    agents = [load_agent(path) for path in write_agents(tmp_path, policy)]
    for agent in agents:
        agent.reset(0)
    carry = policy.initial_carry(8, torch.device("cpu"))
    for step in range(4):
        observations = torch.randn(8, 3, 4, generator=generator(step))
        noise = policy.draw_noise(8, generator(10 + step))
        together, carry = policy.act_on_noise(observations, carry, None, noise)
        for i, agent in enumerate(agents):
            alone = agent.act_on_noise(observations[:, i], noise[:, i])
            torch.testing.assert_close(alone, together[:, i, : agent.action_dim].detach(), rtol=1e-4, atol=1e-4)


def test_without_memory_a_program_decides_for_any_number_of_episodes(tmp_path: Path) -> None:
    policy = small_dof_trajectory(history=0).policy()
    agent = load_agent(write_agents(tmp_path, policy)[0])
    program = trace(agent).module()
    for episodes in (1, 2, 5):
        observation = torch.randn(episodes, 4, generator=generator())
        noise = policy.draw_noise(episodes, generator(1))[:, 0]
        agent.reset(0)
        expected = agent.act_on_noise(observation, noise)
        torch.testing.assert_close(program(observation, noise), expected, rtol=1e-4, atol=1e-4)


def test_a_program_cannot_remember(tmp_path: Path) -> None:
    agent = load_agent(write_agents(tmp_path, small_dof_trajectory().policy())[0])
    with pytest.raises(UserError, match="has a memory"):
        trace(agent)
