"""Datasets collected in PettingZoo environments, and the team that is scripted for mpe2's Spread."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.behavior.actor_bank import UniformBehavior
from data_modules.behavior.base import Behavior
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
