"""Datasets collected in PettingZoo environments, and the team that is scripted for mpe2's Spread."""

import hashlib
import importlib
import sys
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Space

from data_modules.behavior.actor_bank import UniformBehavior
from data_modules.behavior.base import Behavior
from data_modules.behavior.function import FunctionBehavior
from data_modules.behavior.sources import Random
from data_modules.behavior.spread_team import ScriptedSpread, SpreadTeam
from data_modules.collect import CollectedDataset
from data_modules.episodes import EpisodeDataModule
from data_modules.storage.manifest import read_manifest
from dof_lightning.batch import Window
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.envs.pettingzoo.env import PettingZooEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import run_rollout
from dof_lightning.spec import check_compatible
from tests.fixtures.pettingzoo_outpost import Outpost
from tests.fixtures.shard_reading import read_all
from tests.unit.envs.test_pettingzoo import outpost, spread, tag


def dataset(root: Path, environment: VectorEnv, behavior: Behavior, **changes: Any) -> CollectedDataset:
    settings = {"name": environment.spec.name, "environment": environment, "behavior": behavior, "episodes": 30}
    return CollectedDataset(**(settings | {"seed": 0, "discount": 0.99, "root": str(root)} | changes))


def test_data_of_the_two_spreads_refuse_each_other(tmp_path: Path) -> None:
    worlds = spread(), ParticleEnv("spread")
    for here, there in (worlds, worlds[::-1]):
        manifest = read_manifest(dataset(tmp_path, here, Random()).ensure(progress=False))
        check_compatible(manifest.spec, here.spec)
        with pytest.raises(
            UserError, match=f"collected in '{here.spec.name}'.*env='{there.spec.name}'.*choose the env"
        ):
            check_compatible(manifest.spec, there.spec)


def test_the_same_recipe_gives_the_same_bytes_and_what_changes_the_data_changes_the_folder(tmp_path: Path) -> None:
    first, again = (
        read_manifest(dataset(tmp_path / name, spread(), ScriptedSpread(0.5)).ensure(progress=False))
        for name in ("first", "again")
    )
    assert [shard.sha256 for shard in first.shards] == [shard.sha256 for shard in again.shards]
    others = [
        dataset(tmp_path, spread(), ScriptedSpread(0.4)),
        dataset(tmp_path, spread(), Random()),
        dataset(tmp_path, spread(global_state=True), ScriptedSpread(0.5)),
    ]
    assert len({first.spec.fingerprint, *(other.path.name for other in others)}) == 4


WORLD = """from tests.fixtures.pettingzoo_outpost import Outpost
class World(Outpost):
    def step(self, actions):
        observations, rewards, *others = super().step(actions)
        return observations, {agent: REWARD for agent in rewards}, *others
"""


def test_rewards_changed_in_a_module_of_ones_own_are_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder was found, and its data kept, under the same fingerprint."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file, means = tmp_path / "my_own_world.py", []
    for reward in ("1.0", "2.0", "2.0"):
        file.write_text(WORLD.replace("REWARD", reward))
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        importlib.invalidate_caches()
        world = PettingZooEnv(name="mine", factory="my_own_world:World", horizon=4)
        manifest = read_manifest(dataset(tmp_path, world, Random(), episodes=4).ensure(progress=False))
        check_compatible(manifest.spec, world.spec)
        means.append(manifest.behavior["return_mean"])
    monkeypatch.delitem(sys.modules, file.stem)
    assert means[1:] == [2 * means[0]] * 2
    assert len(list(tmp_path.glob("mine-*"))) == 2
    assert world.spec.recipe["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "sha256" not in spread().spec.recipe


def test_masks_early_leavers_and_paddings_come_out_of_the_loader(tmp_path: Path) -> None:
    env = outpost()
    path = dataset(tmp_path, env, Random(), episodes=200).ensure(progress=False)
    manifest = read_manifest(path)
    assert (manifest.longest, manifest.n_terminated) == (4, 0)
    module = EpisodeDataModule(path, Window(0, 1), global_batch_size=64, seed=0)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.alive is not None
    assert batch.legal is not None
    scout, guard = 0, 1
    gone = ~batch.alive[:, scout, 0]
    assert gone.any()
    assert not gone.all()
    assert batch.alive[:, guard].all()
    assert not batch.observations[gone, scout, 0].any()
    assert not batch.rewards[gone, scout].any()
    assert not batch.transition_mask[gone, scout].any()
    assert batch.legal[:, :, 0].gather(-1, batch.actions).all()


def test_random_choices_are_uniform_among_the_legal_ones() -> None:
    policy = UniformBehavior(outpost().spec)
    legal = torch.tensor([[True, True, False, False], [True, False, True, True]]).expand(3000, -1, -1)
    actions, _ = policy.act(torch.zeros(3000, 2, 4), None, legal, torch.Generator().manual_seed(0))
    shares = torch.nn.functional.one_hot(actions, 4).double().mean(0)
    expected = torch.tensor([[0.5, 0.5, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.04)
    assert policy.export(0).action_mask.tolist() == [[True, True, False, False]]


def test_random_actions_leave_padding_alone() -> None:
    policy = UniformBehavior(outpost(masks_in="nowhere", high=1.0).spec)
    actions, _ = policy.act(torch.zeros(5, 2, 4), None, None, torch.Generator().manual_seed(0))
    assert not actions[:, 0, 2:].any()
    assert actions[:, 1].all()


def test_the_scripted_team_shares_the_landmarks_out_as_best_it_can() -> None:
    """Each agent computes its part from its own view; together they are the best of all assignments."""
    env = spread()
    observations = env.reset(torch.arange(60))
    ways = SpreadTeam(3, 0.0).way_to_landmark(observations).numpy()
    positions = observations[..., 2:4].numpy()
    landmarks = observations[:, 0, 4:10].reshape(-1, 3, 2).numpy() + positions[:, :1]
    taken = np.abs(positions[:, :, None] + ways[:, :, None] - landmarks[:, None]).sum(-1).argmin(-1)
    assert (np.sort(taken) == [0, 1, 2]).all()
    distances = np.linalg.norm(positions[:, :, None] - landmarks[:, None], axis=-1)
    best = np.min([sum(distances[:, i, order[i]] for i in range(3)) for order in permutations(range(3))], axis=0)
    np.testing.assert_allclose(np.linalg.norm(ways, axis=-1).sum(-1), best, rtol=1e-4)


def test_the_scripted_team_is_good_acts_alone_and_noise_makes_it_worse() -> None:
    env = spread()
    seeds = torch.arange(20)
    returns = [
        float(run_rollout(policy, env, seeds, (0, "test")).returns.mean())
        for policy in (SpreadTeam(3, 0.0), SpreadTeam(3, 0.5), UniformBehavior(env.spec))
    ]
    assert returns[0] > returns[1] + 0.5 > returns[2] + 10
    assert certify(SpreadTeam(3, 0.5), env, seed=0, n_episodes=2).passed
    assert SpreadTeam(3, 0.5).export(1).n_agents == 1


@pytest.mark.parametrize(
    "environment",
    [
        ParticleEnv("spread"),
        tag(),
        spread(arguments={"continuous_actions": False}),
        spread(arguments={"continuous_actions": True, "num_agent_neighbors": 1}),
    ],
    ids=lambda env: env.spec.name,
)
def test_the_scripted_team_refuses_worlds_it_would_misread(tmp_path: Path, environment: PettingZooEnv) -> None:
    with pytest.raises(UserError, match=r"data\.source\.behavior"):
        _ = dataset(tmp_path, environment, ScriptedSpread(0.5)).path


FUNCTIONS = """
import torch

def noisy(observations, legal, noise):
    return 2 * noise - 1  # in every dimension, those that the scout has not included

def first(observations, legal, noise):
    return torch.zeros(noise.shape[:2], dtype=torch.int64)

def last(observations, legal, noise):
    return torch.full(noise.shape[:2], noise.shape[-1] - 1)
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with policies, which can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_functions", raising=False)
    (tmp_path / "my_functions.py").write_text(FUNCTIONS)
    return tmp_path / "my_functions.py"


def test_a_function_acts_for_agents_with_actions_of_different_sizes(tmp_path: Path, functions: Path) -> None:
    boxes, choices = outpost(masks_in="nowhere", high=1.0), outpost(masks_in="nowhere")
    path = dataset(tmp_path, boxes, FunctionBehavior("my_functions:noisy")).ensure(progress=False)
    scout, guard = read_all(path).actions.swapaxes(0, 1)
    assert not scout[:, 2:].any()
    assert scout[:, :2].std() > 0.3
    assert guard.std() > 0.3
    dataset(tmp_path, choices, FunctionBehavior("my_functions:first")).ensure(progress=False)
    with pytest.raises(UserError, match="returned an action of agent 'scout' that is not within 0 to 1"):
        dataset(tmp_path, choices, FunctionBehavior("my_functions:last")).ensure(progress=False)


def test_a_function_that_has_changed_collects_other_data(tmp_path: Path, functions: Path) -> None:
    first = dataset(tmp_path, outpost(), FunctionBehavior("my_functions:first")).path
    functions.write_text(FUNCTIONS.replace("2 * noise", "1 * noise"))
    assert dataset(tmp_path, outpost(), FunctionBehavior("my_functions:first")).path != first


class Wrong(Outpost):
    """One that hands over what nobody can store."""

    def __init__(self, what: str) -> None:
        super().__init__(masks_in="nowhere")
        self._what = what

    @cache  # noqa: B019
    def observation_space(self, agent: str) -> Space:
        return Box(0, 255, (84, 84, 3)) if self._what == "pictures" else super().observation_space(agent)

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        observations, rewards, *others = super().step(actions)
        if self._what == "vector":
            rewards = {agent: np.ones(2) for agent in rewards}
        if self._what == "nan":
            observations = {agent: seen * np.nan for agent, seen in observations.items()}
        return observations, rewards, *others  # type: ignore[return-value]


def wrong_env(what: str) -> Wrong:
    return Wrong(what)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nan", "wrong.*(not finite|is nan)"),
        ("vector", "wrong.*reward"),
        ("pictures", "wrong: an agent observes 21,168 numbers, 1 MB per episode; .* let the environment"),
    ],
)
def test_what_cannot_be_stored_is_one_line(tmp_path: Path, what: str, words: str) -> None:
    factory = f"{__name__}.wrong_env"
    environment = PettingZooEnv(name="wrong", factory=factory, horizon=4, arguments={"what": what})
    with pytest.raises(UserError, match=words) as error:
        dataset(tmp_path, environment, Random()).ensure(progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("wrong*"))
