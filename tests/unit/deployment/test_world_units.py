"""Agents on their own answer in the units of their world."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dof_lightning.deployment import Agent, load_agent
from dof_lightning.deployment.program import trace
from dof_lightning.deployment.serve import answer
from dof_lightning.envs.pettingzoo.spaces import BoxActions
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec
from tests.fixtures.agent_files import write_agents
from tests.fixtures.policy_models import generator, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.toy_world import ToyPolicy
from tests.unit.deployment.test_deployment import Chooser, toy_agent

RANGES = {  # agents of `small_spec`; the last one in a type whose bounds 32 bits cannot hold
    "agent_0": Box(np.float32([-2, 0]), np.float32([2, 0.1])),
    "agent_1": Box(-1.0, 1.0, (1,)),
    "agent_2": Box(-0.1, 0.7, (2, 1), np.float64),
}


def world_of_ranges() -> tuple[EnvSpec, BoxActions]:
    adapter = BoxActions(RANGES)
    environment = small_spec().environment
    return dataclasses.replace(environment, recipe={"actions": adapter.describe()}), adapter


def test_an_agent_answers_in_the_units_of_its_world(tmp_path: Path) -> None:
    """It agrees, to the last of 32 bits, with the environment's adapter, which takes decisions in [-1, 1]."""
    spec, adapter = world_of_ranges()
    policy = small_dof_policy().policy()
    observations = torch.randn(50, 3, 4, generator=generator())
    for index, path in enumerate(write_agents(tmp_path, policy, spec)):
        agent, box = load_agent(path), RANGES[f"agent_{index}"]
        assert (agent.units is None) == (index == 1), "where they are [-1, 1] nothing is said"
        agent.reset(3)
        decided = agent.decide(observations[:, index])
        agent.reset(3)
        acted = agent.act(observations[:, index])
        padded = torch.nn.functional.pad(decided, (0, 2 - agent.action_dim))
        theirs = adapter.translate(padded[:, None].expand(-1, 3, -1))[:, index]
        for row, wanted in zip(acted, theirs, strict=True):
            rounding = 0 if box.dtype == np.float32 else 1e-7
            np.testing.assert_allclose(row.numpy(), adapter.pick(wanted, index).ravel(), rtol=0, atol=rounding)
            assert bool((row.double() >= torch.from_numpy(box.low.ravel()).double()).all())
            assert bool((row.double() <= torch.from_numpy(box.high.ravel()).double()).all())
        array = agent.to_world(decided.numpy())
        assert (type(array), array.dtype) == (np.ndarray, np.float32)


def test_a_served_agent_says_its_action_in_both_units(tmp_path: Path) -> None:
    spec, _ = world_of_ranges()
    paths = write_agents(tmp_path, small_dof_policy().policy(), spec)
    agent, plain = load_agent(paths[0]), load_agent(paths[1])
    for each in (agent, plain):
        answer(each, '{"reset": 7}')
    told = answer(agent, '{"observation": [0.1, -0.2, 0.3, 1.0]}')
    assert set(answer(plain, '{"observation": [0.1, -0.2, 0.3, 1.0]}')) == {"action"}
    low, high = np.array([-2, 0]), np.array([2, 0.1])
    expected = low + (np.clip(told["decision"], -1, 1) + 1) / 2 * (high - low)
    assert told["action"] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_program_answers_in_the_units_of_its_world(tmp_path: Path) -> None:
    spec, _ = world_of_ranges()
    agent = load_agent(write_agents(tmp_path, small_dof_policy().policy(), spec)[0])
    observations, noise = torch.randn(5, 4, generator=generator()), torch.randn(5, 4, 10, 2, generator=generator(1))
    torch.testing.assert_close(trace(agent).module()(observations, noise), agent.act_on_noise(observations, noise))


def test_choices_count_from_where_the_world_does() -> None:
    agent = toy_agent(Chooser(), action_kind="discrete", action_dim=3, padded_action_dim=4, action_units={"start": 5})
    observations, noise = torch.randn(50, 4, generator=generator()), torch.randn(50, 4, generator=generator(2))
    chosen = agent.act_on_noise(observations, noise)
    assert (chosen.dtype, sorted(set(chosen.tolist()) | {8})) == (torch.int64, [5, 6, 7, 8])
    assert answer_of(agent, [9.0, 0, 0, 0]) == {"action": 5, "decision": 0}


def answer_of(agent: Agent, observation: list[float]) -> dict[str, Any]:
    agent.reset(0)
    return answer(agent, json.dumps({"observation": observation}))


@pytest.mark.parametrize("units", [{"low": [0.0]}, {"low": [0.0], "high": [1.0]}, {"low": [0, 0], "high": [1, "x"]}])
def test_units_that_fit_no_action_are_refused(units: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"agent\.action_units"):
        toy_agent(ToyPolicy().export(1), action_dim=2, action_units=units)
