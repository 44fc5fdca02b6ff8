"""The preys: their behaviour, their names, and the refusal of a wrong one."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.spec import DatasetSpec, check_compatible

PREY_OBSERVATION_DIMS = {"tag": 14, "world": 22}


def omar_network(observation_dim: int) -> nn.Sequential:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.BatchNorm1d(observation_dim),
        nn.Linear(observation_dim, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
        nn.Tanh(),
    )
    network(3 * torch.randn(256, observation_dim) + 1)
    return network.eval()


def save_as_omar(network: nn.Sequential, path: Path) -> None:
    names = {"in_fn": network[0], "fc1": network[1], "fc2": network[3], "fc3": network[5]}
    policy = {f"{name}.{key}": value for name, layer in names.items() for key, value in layer.state_dict().items()}
    torch.save({"init_dict": {}, "agent_params": [{}, {}, {}, {"policy": policy}]}, path)


def hits(env: ParticleEnv, n_episodes: int) -> float:
    """Steps of an episode on which a predator that runs straight at the prey touches it."""
    env.reset(torch.arange(n_episodes))
    touched = torch.zeros(n_episodes)
    for _ in range(HORIZON):
        positions = env.positions
        chase = positions[:, 3:] - positions[:, :3]
        touched += (env.step(chase / chase.abs().amax(-1, keepdim=True)).rewards[:, 0] > 0).float()
    return float(touched.mean())


@pytest.mark.parametrize("task", ["tag", "world"])
def test_omars_prey_is_its_network_on_what_the_prey_saw(task: str, tmp_path: Path) -> None:
    path = tmp_path / "prey.pt"
    network = omar_network(PREY_OBSERVATION_DIMS[task])
    save_as_omar(network, path)
    env = ParticleEnv(task, prey=str(path))
    env.reset(torch.arange(6))
    for _ in range(5):
        seen = env.extra_observations
        assert seen is not None
        info = env.step(torch.zeros(6, 3, 2)).info
        torch.testing.assert_close(info.extra_actions[:, 0], network(seen[:, 0]).detach(), atol=1e-5, rtol=1e-5)


def test_the_files_hash_is_part_of_the_recipe_and_its_place_is_not(tmp_path: Path) -> None:
    here, there = tmp_path / "a.pt", tmp_path / "b.pt"
    save_as_omar(omar_network(14), here)
    there.write_bytes(here.read_bytes())
    spec = ParticleEnv("tag", prey=str(here)).spec
    assert spec.recipe["opponent"] == {"kind": "omar", "sha256": hashlib.sha256(here.read_bytes()).hexdigest()}
    assert spec == ParticleEnv("tag", prey=str(there)).spec


@pytest.mark.parametrize("content", [b"", b"not a torch file", None])
def test_a_file_that_is_not_omars_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    if content is None:
        torch.save({"agent_params": [{"policy": {}}]}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pt.*scripted"):
        ParticleEnv("tag", prey=str(path))


def test_the_other_tasks_prey_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tag.pt"
    save_as_omar(omar_network(14), path)
    with pytest.raises(UserError, match="takes 14 numbers"):
        ParticleEnv("world", prey=str(path))


def test_an_unknown_prey_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"rabbit.*trained, scripted, still"):
        ParticleEnv("tag", prey="rabbit")


def test_spread_has_no_prey() -> None:
    with pytest.raises(UserError, match="no prey"):
        ParticleEnv("spread", prey="still")


@pytest.mark.parametrize("task", ["tag", "world"])
def test_still_prey_does_not_push(task: str) -> None:
    env = ParticleEnv(task, prey="still")
    env.reset(torch.arange(8))
    actions = env.step(torch.zeros(8, 3, 2)).info.extra_actions
    assert actions is not None
    assert (actions == 0).all()


@pytest.mark.parametrize("task", ["tag", "world"])
def test_scripted_prey_evades_yet_can_be_caught(task: str) -> None:
    still, scripted = (hits(ParticleEnv(task, prey=prey), 500) for prey in ("still", "scripted"))
    assert 1.0 < scripted < 0.6 * still


@pytest.mark.parametrize("task", ["tag", "world"])
def test_scripted_prey_stays_near_the_arena(task: str) -> None:
    env = ParticleEnv(task, prey="scripted")
    env.reset(torch.arange(500))
    farthest = torch.zeros(500)
    for _ in range(HORIZON):
        env.step(torch.rand(500, 3, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1)
        farthest = env.positions[:, 3].abs().amax(dim=-1)
    assert farthest.quantile(0.99) < 1.0


@pytest.mark.parametrize("task", ["tag", "world"])
def test_prey_is_reported_and_not_learned(task: str) -> None:
    env = ParticleEnv(task)
    env.reset(torch.arange(4))
    before = env.extra_observations
    assert before is not None
    info = env.step(torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1).info
    assert info.extra_observations is not None
    assert info.extra_actions is not None
    assert info.extra_rewards is not None
    assert before.shape == info.extra_observations.shape == (4, 1, PREY_OBSERVATION_DIMS[task])
    assert info.extra_actions.shape == (4, 1, 2)
    assert info.extra_actions.abs().max() <= 1
    assert info.extra_rewards.shape == (4, 1)
    assert [agent.name for agent in env.spec.agents] == ["predator_0", "predator_1", "predator_2"]


def test_data_of_another_prey_are_refused() -> None:
    data = DatasetSpec("tag_still", ParticleEnv("tag", prey="still").spec, 0.99, {}, statistics=None)  # type: ignore[arg-type]
    check_compatible(data, ParticleEnv("tag", prey="still").spec)
    with pytest.raises(UserError, match="opponent: still in the data, trained"):
        check_compatible(data, ParticleEnv("tag").spec)
