"""One agent from its own files: the same policy, its own noise, and mistakes named."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dof_lightning.deployment import Agent, load_agent
from dof_lightning.deployment.decision import own_noise
from dof_lightning.deployment.program import trace
from dof_lightning.deployment.serve import answer
from dof_lightning.deployment.structure import describe, rebuild
from dof_lightning.diffusion import sampler
from dof_lightning.diffusion.dpm_solver import DPMSolver
from dof_lightning.errors import UserError
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.policy import DecentralizedPolicy
from tests.fixtures.agent_files import about_agent, write_agents
from tests.fixtures.policy_models import cloning, generator, small_dof_policy
from tests.fixtures.toy_world import ToyPolicy

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "shared": {"denoiser": partial(MLPDenoiser, hidden=(16, 16), sharing="shared")},
    "cdf, ddim": {"observation_normalizer": "cdf", "sampler": partial(sampler.DDIM, steps=3, eta=0.5)},
    "dpm_solver": {"sampler": partial(DPMSolver, steps=4)},
    "cloning": cloning(),
}


@pytest.fixture
def agents(tmp_path: Path) -> list[Agent]:
    return [load_agent(path) for path in write_agents(tmp_path, small_dof_policy().policy())]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_agents_from_their_files_act_as_the_team_on_the_same_noise(tmp_path: Path, changes: dict[str, Any]) -> None:
    """They agree to the last bit; agent 1's second action dimension is padding, which users of its file never see."""
    policy = small_dof_policy(**changes).policy()
    observations = torch.randn(8, 3, 4, generator=generator())
    noise = policy.draw_noise(8, generator(1))
    together, _ = policy.act_on_noise(observations, None, None, noise)
    for i, path in enumerate(write_agents(tmp_path, policy)):
        agent = load_agent(path)
        assert agent.action_dim == (2, 1, 2)[i]
        alone = agent.act_on_noise(observations[:, i], noise[:, i])
        assert torch.equal(alone, together[:, i, : agent.action_dim].detach())


def test_the_teams_rows_of_shipped_noise_are_enough(tmp_path: Path) -> None:
    """A rollout's own noise, handed over row by row, gives a rollout's own actions; see docs/guide/deploy.md."""
    policy = small_dof_policy().policy()
    first, second = generator(5), generator(5)
    observations = torch.randn(8, 3, 4, generator=generator())
    acted, _ = policy.act(observations, None, None, first)
    noise = policy.draw_noise(8, second)
    agent = load_agent(write_agents(tmp_path, policy)[2])
    assert torch.equal(agent.act_on_noise(observations[:, 2], noise[:, 2]), acted[:, 2].detach())


def test_whatever_a_policy_gains_is_rebuilt() -> None:
    policy: Any = small_dof_policy().policy().export(0)
    policy.added = (1, [2.5, None], {"name": torch.arange(3)})
    policy.register_module("part", torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Mish()))
    structure, tensors = describe(policy)
    rebuilt: Any = rebuild(json.loads(json.dumps(structure)), tensors)
    assert rebuilt.added[:2] == (1, [2.5, None])
    assert torch.equal(rebuilt.added[2]["name"], torch.arange(3))
    assert torch.equal(rebuilt.part(torch.ones(2)), policy.part(torch.ones(2)))
    assert not any(module.training for module in rebuilt.modules())
    assert not any(parameter.requires_grad for parameter in rebuilt.parameters())


def test_exported_tensors_share_no_memory() -> None:
    policy = small_dof_policy().policy().export(0)
    _, tensors = describe(policy)
    ours = {tensor.data_ptr() for tensor in [*policy.parameters(), *policy.buffers()] if tensor.numel()}
    assert not ours & {tensor.data_ptr() for tensor in tensors.values() if tensor.numel()}


def test_what_cannot_be_exported_is_named() -> None:
    policy: Any = small_dof_policy().policy().export(0)
    policy.sampler.clip = print
    with pytest.raises(UserError, match=r"sampler\.clip is a builtins\.builtin_function"):
        describe(policy)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "dof_lightning.cli.main.main",
        "dof_lightning.actors.diffusion.abstractmethod",
        "dof_lightning.actors.diffusion.torch",
        "dof_lightning.diffusion.chain.as_it_is",
        "dof_lightning.actors.nothing.Actor",
        "torch.nn.modules.container.OrderedDict",
    ],
)
def test_a_file_names_our_classes_only(path: str) -> None:
    node = {"class": path, "attributes": {}, "parameters": {}, "buffers": {}, "modules": {}}
    with pytest.raises(UserError, match=r"structure: .*" + path.rpartition(".")[2]):
        rebuild(node, {})


def test_own_noise_is_a_function_of_seed_agent_and_step(agents: list[Agent]) -> None:
    def draw(seed: int, agent: int, step: int) -> Tensor:
        return own_noise(agents[0].decision.policy, 400, seed, agent, step).flatten()

    assert torch.equal(draw(1, 0, 0), draw(1, 0, 0))
    draws = torch.stack([draw(*key) for key in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))])
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 5 / draws.shape[1] ** 0.5
    assert abs(float(draws.std()) - 1) < 0.02


def test_an_episode_is_played_again_from_its_seed(agents: list[Agent]) -> None:
    agent, observations = agents[0], torch.randn(5, 4, generator=generator())

    def play(seed: int) -> Tensor:
        agent.reset(seed)
        return torch.stack([agent.act(observation) for observation in observations])

    assert torch.equal(play(3), play(3))
    assert not torch.equal(play(3), play(4))
    agent.reset(3)
    same = torch.stack([agent.act(observations[0]) for _ in range(3)])
    assert not torch.equal(same[0], same[1])  # another step, another noise
    noise = own_noise(agent.decision.policy, 1, 3, agent.index, 0)[0, 0]
    assert torch.equal(same[0], agent.act_on_noise(observations[0], noise))


def test_arrays_come_back_as_what_they_were(agents: list[Agent]) -> None:
    agent = agents[1]
    observations = torch.randn(6, 4, generator=generator())
    agent.reset(0)
    batch = agent.act(observations)
    assert batch.shape == (6, 1)
    agent.reset(0)
    array = agent.act(observations.double().numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, batch.numpy())
    agent.reset(0)
    assert agent.act(observations[0].numpy()).shape == (1,)


def toy_agent(policy: DecentralizedPolicy, **changes: Any) -> Agent:
    noise_shape = list(policy.draw_noise(1, generator()).shape[2:])
    record = about_agent(1)
    return Agent(record | {"noise_shape": noise_shape, "agent": record["agent"] | changes}, policy)


def test_an_agent_remembers_its_episode_and_no_other() -> None:
    policy = ToyPolicy().eval()
    agent = toy_agent(policy.export(1), action_dim=2)
    observations = torch.randn(4, 3, 4, generator=generator())
    noise = policy.draw_noise(3, generator(1))
    carry, expected = policy.initial_carry(3, torch.device("cpu")), []
    for observation in observations:
        actions, carry = policy.act_on_noise(observation[:, None].expand(-1, 3, -1), carry, None, noise)
        expected.append(actions[:, 1].detach())
    for _ in range(2):
        agent.reset(0)
        for observation, action in zip(observations, expected, strict=True):
            torch.testing.assert_close(agent.act_on_noise(observation, noise[:, 1]), action)
    with pytest.raises(UserError, match="has a memory"):
        trace(agent)


class Chooser(DecentralizedPolicy):
    """A discrete policy: the legal choice whose entry of observation and noise is largest."""

    n_agents = 1

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n_episodes, 1, 4, generator=generator)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        value = observations + noise
        if legal is not None:
            value = value.masked_fill(~legal, -torch.inf)
        return value.argmax(-1), carry

    def export(self, agent: int) -> "Chooser":
        return self


def test_a_discrete_agent_chooses_what_is_legal() -> None:
    """It has three choices where the widest agent has four."""
    agent = toy_agent(Chooser(), action_kind="discrete", action_dim=3, padded_action_dim=4)
    observations = torch.randn(50, 4, generator=generator())
    legal = torch.rand(50, 3, generator=generator(1)) < 0.5
    legal[:, 0] |= ~legal.any(-1)
    agent.reset(0)
    choices = agent.act(observations, legal)
    assert choices.dtype == torch.int64
    assert legal.gather(1, choices[:, None]).all()
    assert len(choices.unique()) == 3
    noise = torch.randn(50, 4, generator=generator(2))
    program = trace(agent).module()
    assert torch.equal(program(observations, noise, legal), agent.act_on_noise(observations, noise, legal))


@pytest.mark.parametrize("sampling", ["cdf, ddim", "dpm_solver"])
def test_a_program_decides_as_the_agent_for_any_number_of_episodes(tmp_path: Path, sampling: str) -> None:
    policy = small_dof_policy(**VARIANTS["shared"], **VARIANTS[sampling]).policy()
    agent = load_agent(write_agents(tmp_path, policy)[0])
    program = trace(agent).module()
    for n_episodes in (1, 2, 33):
        observations = torch.randn(n_episodes, 4, generator=generator(n_episodes))
        noise = own_noise(agent.decision.policy, n_episodes, 0, 0, 0)[:, 0]
        agent.reset(0)
        torch.testing.assert_close(program(observations, noise), agent.act_on_noise(observations, noise))


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (torch.zeros(3), r"agent_0: observation must be \[4\].* got \[3\]"),
        (torch.zeros(2, 5), r"observation must be .* got \[2, 5\]"),
        (torch.zeros(1, 1, 4), r"observation must be .* got \[1, 1, 4\]"),
        (torch.tensor([0.0, torch.nan, 0.0, 0.0]), "agent_0: observation .*not finite"),
        (torch.tensor([0.0, torch.inf, 0.0, 0.0]), "not finite"),
        (torch.zeros(7, 4), "began with 2 episodes, got 7"),
    ],
)
def test_what_an_agent_cannot_see_is_refused(agents: list[Agent], observation: Tensor, words: str) -> None:
    agents[0].reset(0)
    if observation.shape == (7, 4):
        agents[0].act(torch.zeros(2, 4))
    with pytest.raises(UserError, match=words):
        agents[0].act(observation)


def test_other_mistakes_of_a_caller_are_named(agents: list[Agent]) -> None:
    agent = agents[0]
    with pytest.raises(UserError, match="agent_0: observation must be a numpy array"):
        agent.act_on_noise([0.0] * 4, torch.zeros(1))
    with pytest.raises(UserError, match="agent_0: call reset"):
        agent.act(torch.zeros(4))
    with pytest.raises(UserError, match="seed=-1"):
        agent.reset(-1)
    with pytest.raises(UserError, match=r"noise must be \[1, 4, 10, 2\], got \[1, 2\]"):
        agent.act_on_noise(torch.zeros(4), torch.zeros(2))
    with pytest.raises(UserError, match="legal"):
        agent.act_on_noise(torch.zeros(4), torch.zeros(4, 10, 2), torch.zeros(2, dtype=torch.bool))


def test_a_served_agent_answers_every_line(agents: list[Agent]) -> None:
    agent = agents[0]
    assert "call reset" in answer(agent, '{"observation": [0, 0, 0, 0]}')["error"]
    assert answer(agent, '{"reset": 7}') == {"reset": 7}
    observation = [0.1, -0.2, 0.3, 1.0]
    action = answer(agent, json.dumps({"observation": observation}))["action"]
    agent.reset(7)
    assert action == agent.act(torch.tensor(observation)).tolist()
    assert "observation" in answer(agent, '{"observation": [0, 0]}')["error"]
    for line, contained in (('{"state": [0, 0]}', "state"), ("[0.1, 0.2]", "no keys"), ("{}", "nothing")):
        assert f'needs "reset" or "observation", and contains {contained}' in answer(agent, line)["error"]
    unread = (
        '{"observation": [null]}',
        '{"observation": [NaN, 0, 0, 0]}',
        '{"observation": [' + "9" * 400 + "]}",
        "[" * 99999,
    )
    for line in ("", "{}", "[1]", '{"observation": [[1, 2], [3]]}', b"\xff\xfe", *unread):
        assert "cannot read" in answer(agent, line)["error"]
    for seed in ('"now"', "1.5", "true", "null"):
        assert "must be an integer" in answer(agent, f'{{"reset": {seed}}}')["error"]
    assert "action" in answer(agent, json.dumps({"observation": observation})), "the episode goes on"


def test_any_layout_of_an_array_is_read(agents: list[Agent]) -> None:
    agent, observations = agents[0], np.random.default_rng(0).normal(size=(3, 4))
    acted = []
    for given in (observations, np.ascontiguousarray(observations[::-1])[::-1], observations.astype(">f8")):
        agent.reset(7)
        acted.append(agent.act(given))
    for other in acted[1:]:
        np.testing.assert_array_equal(other, acted[0])
