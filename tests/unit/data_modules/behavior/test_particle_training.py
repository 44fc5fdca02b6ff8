"""Training of behaviour policies: MATD3's parts do what TD3 specifies, and the command writes what it promises."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.behavior.snapshots import load_weights, read_story
from data_modules.behavior.training import train_particle
from data_modules.behavior.training.matd3 import MATD3, MATD3Settings, ReplayBuffer
from data_modules.behavior.training.train_particle import ParticleTraining
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError


@pytest.fixture(scope="module")
def spread() -> ParticleEnv:
    return ParticleEnv(task="spread")


def test_replay_buffer_keeps_the_latest() -> None:
    buffer = ReplayBuffer(capacity=6, n_agents=1, observation_dim=1, action_dim=1)
    for value in range(5):
        rows = torch.full((2, 1, 1), float(value))
        buffer.add(rows, rows, rows[:, 0, 0], rows + 1)
    observations, actions, rewards, following, _ = buffer.sample(200, torch.Generator().manual_seed(0))
    assert set(rewards.tolist()) == {2.0, 3.0, 4.0}
    assert torch.equal(observations + 1, following)
    assert torch.equal(observations, actions)


@pytest.fixture
def learner(spread: ParticleEnv) -> MATD3:
    return MATD3(spread, MATD3Settings(n_environments=4, batch_size=16, buffer_size=400, warmup_steps=10), seed=0)


def changed(learner: MATD3, action: Callable[[], None]) -> set[str]:
    parts = ("actors", "critics", "target_actors", "target_critics")
    before = {p: [t.clone() for t in getattr(learner, p).state_dict().values()] for p in parts}
    action()
    after = {p: list(getattr(learner, p).state_dict().values()) for p in parts}
    return {p for p in parts if not all(map(torch.equal, before[p], after[p]))}


def test_actors_wait_for_the_critics(learner: MATD3) -> None:
    assert list(learner.train(4))[-1] >= 4
    batch = learner.buffer.sample(16, learner.generator)
    target = learner._target(*batch[2:])
    assert changed(learner, lambda: learner._update_critics(*batch[:2], target)) == {"critics"}
    assert changed(learner, lambda: learner._update_actors(batch[0])) == {"actors"}


def test_time_limits_bootstrap_in_online_training_too(learner: MATD3) -> None:
    rewards, following = torch.ones(16), torch.randn(16, 3, 18, generator=torch.Generator().manual_seed(0))
    for parameter in learner.target_critics.parameters():
        parameter.data.zero_()
    learner.target_critics.layers[-1].bias.data.copy_(torch.tensor([5.0, 3.0]).view(2, 1, 1))
    settings, limited = learner.settings, torch.zeros(16, dtype=torch.bool)
    expected = settings.reward_scale + settings.discount * 3.0
    torch.testing.assert_close(learner._target(rewards, following, limited), torch.full((16,), expected))


def test_same_seed_trains_the_same_actors(spread: ParticleEnv) -> None:
    settings = MATD3Settings(n_environments=4, batch_size=16, buffer_size=400, warmup_steps=10)
    weights = []
    for seed in (0, 0, 1):
        learner = MATD3(spread, settings, seed)
        list(learner.train(20))
        weights.append(torch.cat([p.flatten() for p in learner.actors.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_command_writes_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = MATD3Settings(n_environments=4, batch_size=16, buffer_size=400, warmup_steps=10)
    monkeypatch.setattr(train_particle, "MATD3Settings", lambda: tiny)
    few = {"updates": 30, "evaluate_every": 10, "evaluation_episodes": 8}
    path = train_particle.main(ParticleTraining(output=str(tmp_path / "new.safetensors"), **few))
    assert path.exists()
    monkeypatch.setattr("data_modules.behavior.snapshots.WEIGHTS", tmp_path)
    told = "task=spread seed=1 updates=30 evaluate_every=10 evaluation_episodes=8"
    assert read_story("new")["command"] == f"dof data train-behavior {told}"
    assert ParticleTraining(task="spread", seed=1, updates=2, evaluate_every=250).command().endswith("seed=1 updates=2")
    with pytest.raises(UserError, match="spread"):
        train_particle.main(ParticleTraining(task="hide_and_seek"))  # type: ignore[arg-type]
    two = ParticleTraining(experts=[4, 2], sight=0.7, output=str(tmp_path / "two.safetensors"), **few)
    train_particle.main(two)
    assert sorted(read_story("two")["snapshots"]) == ["expert_2", "expert_2_swapped", "expert_4", "expert_4_swapped"]
    assert "updates=30 experts=[4,2] sight=0.7" in read_story("two")["command"]
    second = ParticleTraining(seed=2, sight=0.7, output=str(tmp_path / "second.safetensors"), **few)
    train_particle.main(second)
    for key, value in load_weights("second", "expert").items():
        assert torch.equal(value, load_weights("two", "expert_2")[key]), "one seed after the other"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"mpe_spread\.safetensors exists.*output="),
        ({"updates": 100, "output": "new.safetensors"}, "evaluate_every=250"),
        ({"prey": "still", "output": "new.safetensors"}, "task=spread has no prey"),
        ({"task": "tag", "prey": "rabbit", "output": "new.safetensors"}, "rabbit.*scripted"),
        ({"task": "tag", "experts": [1, 2], "output": "new.safetensors"}, "task=tag.*experts="),
        ({"experts": [1, 1], "output": "new.safetensors"}, r"experts=\[1, 1\] must be different"),
        ({"task": "tag", "sight": 1.0, "output": "new.safetensors"}, "task=tag.*sight="),
        ({"experts": [1, 2]}, r"mpe_spread_experts\.safetensors exists"),
        ({"task": "tag", "prey_updates": 0, "output": "new.safetensors"}, "prey_updates=0"),
        ({"output": "nowhere/new.safetensors"}, "nowhere is no folder"),
    ],
)
def test_training_refuses_at_once_what_would_be_lost_at_the_end(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(train_particle, "MATD3", None)  # nothing is trained
    with pytest.raises(UserError, match=words):
        train_particle.main(ParticleTraining(**arguments))
