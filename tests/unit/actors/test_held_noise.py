"""Agents that keep the noise of an episode's first decision: a function of what they see, each alone."""

from pathlib import Path

import pytest
import torch

from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.deployment.agent import load_agent
from dof_lightning.deployment.program import trace
from dof_lightning.errors import UserError
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import run_rollout
from tests.fixtures.agent_files import write_agents
from tests.fixtures.policy_models import generator, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.toy_world import ToyEnv

CPU = torch.device("cpu")


def actor(hold_noise: bool = True, **changes: object) -> DiffusionActor:
    return small_dof_policy(small_spec((2, 2, 2)), hold_noise=hold_noise, **changes).policy()


@pytest.mark.parametrize("changes", [{}, {"selection": "softmax"}, {"shared_seeds": 3}], ids=str)
def test_the_first_decisions_noise_is_every_decisions(changes: dict[str, object]) -> None:
    holding, drawing = actor(**changes), actor(hold_noise=False, **changes)
    told = holding.draw_shared_seed(8, generator())
    carry, usual = holding.begin(8, CPU, told), drawing.begin(8, CPU, told)
    first = holding.draw_noise(8, generator(0))
    for step in range(3):
        seen = torch.randn(8, 3, 4, generator=generator(step))
        acted, carry = holding.act_on_noise(seen, carry, None, holding.draw_noise(8, generator(step)))
        assert torch.equal(acted, drawing.act_on_noise(seen, usual, None, first)[0])
    assert not torch.equal(acted, drawing.act_on_noise(seen, usual, None, holding.draw_noise(8, generator(2)))[0])


def test_agents_still_act_alone_and_episodes_do_not_depend_on_their_number() -> None:
    policy = actor()
    assert certify(policy, ToyEnv(), seed=0, n_episodes=4).passed
    seeds = torch.arange(8)
    every = run_rollout(policy, ToyEnv(), seeds, (0, "test"), chunk=4, record=True)
    later = run_rollout(policy, ToyEnv(), seeds[4:], (0, "test"), chunk=4, first_episode=4, record=True)
    assert torch.equal(every.actions[4:], later.actions)


def test_exported_agents_hold_theirs_until_the_next_reset(tmp_path: Path) -> None:
    agent = load_agent(write_agents(tmp_path, actor(candidates=1))[0])
    seen = torch.zeros(4)
    agent.reset(7)
    acted = [agent.act(seen) for _ in range(3)]
    assert torch.equal(acted[0], acted[1])
    assert torch.equal(acted[0], acted[2])
    agent.reset(8)
    assert not torch.equal(acted[0], agent.act(seen))
    with pytest.raises(UserError, match=r"torch_export.*its noise"):
        trace(agent)
