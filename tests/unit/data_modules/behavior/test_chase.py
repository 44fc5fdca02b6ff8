"""Tag and World against our own prey: who it is, what is kept of it, and the two scores."""

import hashlib
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from data_modules.behavior.actor_bank import GaussianBehavior, UniformBehavior
from data_modules.behavior.snapshots import load_actors, read_story, snapshot_names
from data_modules.behavior.sources import Random, Snapshots
from data_modules.behavior.training import train_particle
from data_modules.behavior.training.chase import Chase, layers_of
from data_modules.behavior.training.matd3 import MATD3Settings
from data_modules.behavior.training.train_particle import ParticleTraining
from data_modules.collect import CollectedDataset
from dof_lightning.console import show_scores
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.envs.particle.prey import NetworkPrey, save_prey, shipped_prey
from dof_lightning.errors import UserError
from dof_lightning.evaluation.score import score
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.spec import DatasetSpec, EnvSpec, ReferenceScores, check_compatible
from tests.fixtures.shard_reading import read_all, sorted_by_id

TASKS = ("tag", "world")
TINY = MATD3Settings(n_environments=4, batch_size=16, buffer_size=400, warmup_steps=10)


def returns(env: ParticleEnv, policy: Any, n_episodes: int) -> torch.Tensor:
    return run_rollout(policy, env, evaluation_seeds(11, "report", n_episodes), ("test",), chunk=500).returns


def greedy(env: ParticleEnv, snapshot: str) -> GaussianBehavior:
    return GaussianBehavior(load_actors(env.spec, snapshot), 3, 2, exploration_noise=0.0)


@pytest.mark.parametrize("task", TASKS)
def test_the_trained_prey_is_the_default_and_in_the_recipe(task: str) -> None:
    env = ParticleEnv(task)
    content = shipped_prey(task).read_bytes()
    assert env.spec.recipe["opponent"] == {"kind": "trained", "sha256": hashlib.sha256(content).hexdigest()}
    assert env.spec == ParticleEnv(task, prey="trained").spec == ParticleEnv(task, prey=str(shipped_prey(task))).spec
    assert len(content) < 1_000_000


def test_another_weight_is_another_world_and_nothing_was_measured_in_it(tmp_path: Path) -> None:
    tensors = load_file(shipped_prey("tag"))
    tensors["layer_2.bias"][0] += 0.5
    save_file(tensors, tmp_path / "mpe_tag_prey.safetensors")
    scores = shipped_prey("tag").with_name("mpe_tag_scores.json")
    (tmp_path / "mpe_tag_scores.json").write_text(scores.read_text())
    ours, other = ParticleEnv("tag").spec, ParticleEnv("tag", prey=str(tmp_path / "mpe_tag_prey.safetensors")).spec
    assert other.fingerprint != ours.fingerprint
    assert ours.own_reference is not None
    assert other.own_reference is None
    assert other.reference is not None
    data = DatasetSpec("tag_other", other, 0.99, {}, statistics=None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"opponent: trained \w{8} in the data, trained \w{8} here.*choose the env="):
        check_compatible(data, ours)


def test_a_damaged_prey_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(UserError, match=r"mine\.safetensors.*choose trained"):
        ParticleEnv("tag", prey=str(path))
    path.write_bytes(shipped_prey("tag").read_bytes())
    (tmp_path / "mine_scores.json").write_text("{")
    with pytest.raises(UserError, match="no prey in this file"):
        ParticleEnv("tag", prey=str(path))
    with pytest.raises(UserError, match="takes 14 numbers"):
        ParticleEnv("world", prey=str(shipped_prey("tag")))


@pytest.mark.parametrize("task", TASKS)
def test_shipped_behaviours_return_what_their_story_says(task: str) -> None:
    env = ParticleEnv(task)
    story = read_story(f"mpe_{task}")
    assert story["environment_fingerprint"] == env.spec.fingerprint
    for name in [*snapshot_names(f"mpe_{task}")[::4], "medium", "expert"]:
        told, got = story["snapshots"][name], returns(env, greedy(env, name), 500)
        tolerance = 4 * max(told["return_std"], 5.0) * (1 / 500 + 1 / story["evaluation_episodes"]) ** 0.5
        assert abs(got.mean() - told["return_mean"]) < tolerance, name


@pytest.mark.parametrize("task", TASKS)
def test_own_references_are_the_random_and_the_expert_return(task: str) -> None:
    env = ParticleEnv(task)
    own = env.spec.own_reference
    assert own is not None
    for policy, told in ((UniformBehavior(env.spec), own.random), (greedy(env, "expert"), own.expert)):
        got = returns(env, policy, 1000)
        assert abs(got.mean() - told) < 4 * got.std() * (1 / 1000 + 1 / 5000) ** 0.5
    assert env.spec.recipe["opponent"]["sha256"][:8] in own.source


@pytest.mark.parametrize("quality", ["random", "medium"])
def test_what_the_prey_saw_did_and_earned_is_in_the_shards(quality: str, tmp_path: Path) -> None:
    behavior = Random() if quality == "random" else Snapshots(quality)  # type: ignore[arg-type]
    env = ParticleEnv("tag")
    source = CollectedDataset("tag", env, behavior, 20, seed=0, discount=0.99, root=str(tmp_path))
    kept = sorted_by_id(read_all(source.ensure(progress=False))).padded()
    assert kept.extra_observations.shape == (20, 1, 26, 14)
    assert kept.extra_actions.shape == (20, 1, 25, 2)
    network = ParticleEnv("tag")._prey
    for t in (0, 12, 24):
        seen = torch.from_numpy(kept.extra_observations[:, 0, t]).t()
        np.testing.assert_allclose(kept.extra_actions[:, 0, t], network.act(seen).t(), atol=1e-5)
    speeds = np.linalg.norm(kept.extra_observations[:, 0, :, :2], axis=-1)
    assert speeds[:, 0].max() == 0  # the row of the reset
    moved = kept.extra_observations[:, 0, 1:, 2:4] - kept.extra_observations[:, 0, :-1, 2:4]
    np.testing.assert_allclose(moved, 0.1 * kept.extra_observations[:, 0, 1:, :2], atol=1e-5)
    # Predator 0 sees the prey where the prey sees predator 0.
    np.testing.assert_allclose(kept.observations[:, 0, :, 12:14], -kept.extra_observations[:, 0, :, 8:10], atol=1e-6)
    distances = np.linalg.norm(kept.extra_observations[:, 0, 1:, 8:14].reshape(20, 25, 3, 2), axis=-1)
    hits = (distances < 0.125).sum(-1)
    np.testing.assert_allclose(kept.rewards[:, 0], 10 * hits - 0.1 * distances.sum(-1), atol=1e-4)
    assert (kept.extra_rewards[:, 0] <= 0.1 * distances.sum(-1) - 10 * hits + 1e-4).all()


def test_both_scores_are_told_and_whose_prey_they_mean() -> None:
    env = ParticleEnv("tag")
    config = {"seed": 0, "rollout": {"report_episodes": 20}}
    result = score(greedy(env, "expert"), env, config).to_dict()
    own, published = env.spec.own_reference, env.spec.reference
    assert own is not None
    assert published is not None
    mean = result["return_mean"]
    assert result["normalized_score"] == pytest.approx(100 * (mean + 4.1) / 189.7)
    assert result["own_normalized_score"] == pytest.approx(100 * (mean - own.random) / (own.expert - own.random))
    written = StringIO()
    console = Console(file=written, width=300)
    show_scores(console, {"last": result}, {"return_mean": 10.0, "return_std": 1.0}, env.spec)
    text = written.getvalue()
    assert f"{result['own_normalized_score']:.1f}" in text
    assert f"{result['normalized_score']:.1f}" in text
    assert "against OMAR's prey, while this prey is trained" in text
    assert f"against this prey ({env.spec.recipe['opponent']['sha256'][:8]})" in text


def test_spread_has_one_score_and_older_descriptions_are_read() -> None:
    spec = ParticleEnv("spread").spec
    assert list(spec.references) == ["normalized_score"]
    told = spec.to_dict()
    del told["own_reference"]
    assert EnvSpec.from_dict(json.loads(json.dumps(told))) == spec
    tag = ParticleEnv("tag").spec
    assert EnvSpec.from_dict(json.loads(json.dumps(tag.to_dict()))).own_reference == tag.own_reference


def test_prey_and_predators_learn_from_the_same_episodes() -> None:
    chase = Chase("tag", TINY, seed=0)
    before = [p.clone() for p in chase.prey.actors.parameters()]
    list(chase.train(60))
    assert not all(map(torch.equal, before, chase.prey.actors.parameters()))
    assert chase.prey.updates == chase.updates
    prey, team = chase.prey.buffer, chase.buffer
    assert prey.size == team.size > 0
    rows = slice(0, team.size)
    torch.testing.assert_close(prey.observations[rows, 0, 8:10], -team.observations[rows, 0, 12:14])
    torch.testing.assert_close(prey.next_observations[rows, 0, :2], team.next_observations[rows, 0, 14:16])
    # A prey out of bounds only loses: what the team earns it pays, up to the bound.
    assert (prey.rewards[rows] <= -team.rewards[rows] + 1e-4).all()


def test_a_saved_prey_acts_as_its_learner_did(tmp_path: Path) -> None:
    chase = Chase("world", TINY, seed=0)
    path = tmp_path / "prey.safetensors"
    save_prey(path, layers_of(chase.prey.actors), {})
    env = ParticleEnv("world", prey=str(path))
    assert isinstance(env._prey, NetworkPrey)
    seen = torch.randn(9, 22, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = chase.prey.actors(seen[:, None])[:, 0]
    torch.testing.assert_close(env._prey.act(seen.t()).t(), expected, atol=5e-3, rtol=0)


def test_two_stages_in_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_particle, "MATD3Settings", lambda: TINY)
    monkeypatch.setattr(train_particle, "SETTINGS", {})
    monkeypatch.setattr("data_modules.behavior.training.train_particle.REFERENCE_EPISODES", 20)
    output = tmp_path / "new.safetensors"
    small = {"updates": 20, "prey_updates": 20, "evaluate_every": 10, "evaluation_episodes": 8}
    train_particle.main(ParticleTraining(task="tag", output=str(output), **small))
    env = ParticleEnv("tag", prey=str(tmp_path / "new_prey.safetensors"))
    assert isinstance(env.spec.own_reference, ReferenceScores)
    monkeypatch.setattr("data_modules.behavior.snapshots.WEIGHTS", tmp_path)
    assert read_story("new")["environment_fingerprint"] == env.spec.fingerprint
    output.unlink()
    with pytest.raises(UserError, match="new_prey"):
        train_particle.main(ParticleTraining(task="tag", output=str(output), **small))
    train_particle.main(ParticleTraining(task="tag", prey="still", output=str(output), **small))
    assert read_story("new")["environment_fingerprint"] == ParticleEnv("tag", prey="still").spec.fingerprint
