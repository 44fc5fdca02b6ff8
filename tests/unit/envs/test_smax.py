"""SMAX's battles: their peculiarities; their contract is in the contract tests."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules.behavior.battles import BattleSnapshots
from data_modules.collect import CollectedDataset
from data_modules.storage.manifest import read_manifest
from dof_lightning.config import catalog
from dof_lightning.envs.smax import program as smax_program
from dof_lightning.envs.smax.env import SMAXEnv
from dof_lightning.envs.smax.maps import BATTLES
from dof_lightning.envs.smax.program import SMAXProgram, padded_size, split_seeds
from dof_lightning.errors import UserError
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.run import evaluation_seeds, run_rollout

STOP = 4


@pytest.fixture(scope="module")
def battles() -> SMAXEnv:
    return SMAXEnv("3m")


@pytest.mark.parametrize("name", BATTLES)
def test_the_table_of_sizes_is_jaxmarls(name: str) -> None:
    program, spec = SMAXProgram(name), SMAXEnv(name).spec
    assert (program.n_allies, program.observation_dim) == (spec.n_agents, spec.observation_dim)
    assert (program.state_dim, program.horizon) == (spec.state_dim, spec.horizon)
    assert program._env.action_space(program._env.agents[0]).n == spec.action_dim


def test_every_map_has_an_option() -> None:
    options = [name for name in catalog.options("env") if name.startswith("smax_") or name.endswith("_units")]
    assert sorted(options) == sorted(SMAXEnv(name).spec.name for name in BATTLES)


def test_the_spec_and_a_configuration_need_no_jax() -> None:
    program = (
        "import sys; from dof_lightning.config import compose as c; "
        "c.build(c.compose(['experiment=smax_3m_good'])['env']).spec; print('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_the_dead_may_only_stop_and_a_victory_earns_one(battles: SMAXEnv) -> None:
    generator = torch.Generator().manual_seed(0)
    battles.reset(torch.arange(128))
    earned, over, won = torch.zeros(128), torch.zeros(128, dtype=torch.bool), torch.zeros(128, dtype=torch.bool)
    deaths = 0
    for _ in range(battles.spec.horizon):
        legal = battles.legal
        assert legal is not None
        scores = torch.rand(legal.shape, generator=generator)
        scores[..., STOP + 1 :] += 1.0  # whoever can shoot does
        result = battles.step(scores.masked_fill(~legal, -1.0).argmax(-1))
        info = result.info
        assert info.alive is not None
        assert info.legal is not None
        assert info.won is not None
        dead = ~info.alive & ~result.terminated[:, None]
        deaths += int(dead.sum())
        assert bool((info.legal[dead].sum(-1) == 1).all())
        assert bool(info.legal[dead][:, STOP].all())
        assert bool((result.rewards == result.rewards[:, :1]).all())
        won |= info.won & ~over
        earned += result.rewards[:, 0] * ~over
        over |= result.terminated | result.truncated
    assert deaths > 0
    assert bool(won.any())
    assert not bool(won.all())
    torch.testing.assert_close(earned[won], torch.full_like(earned[won], 2.0))
    assert bool((earned[~won] < 1.0).all())


def test_batches_of_many_sizes_are_few_programs() -> None:
    assert {padded_size(n) for n in range(1, 129)} == {128}
    assert (padded_size(129), padded_size(256)) == (256, 256)
    seeds = split_seeds(np.array([1, 2**40 + 7]), 128)
    assert seeds.shape == (128, 2)
    assert seeds[:2].tolist() == [[1, 0], [7, 2**8]]
    assert len(np.unique(seeds, axis=0)) == 2


def test_steps_after_the_end_and_choices_that_are_none_are_refused(battles: SMAXEnv) -> None:
    with pytest.raises(RuntimeError, match="reset"):
        SMAXEnv("3m").step(torch.zeros(2, 3, dtype=torch.int64))
    battles.reset(torch.arange(2))
    for wrong in (-1, 8):
        with pytest.raises(ValueError, match="between 0 and 7"):
            battles.step(torch.full((2, 3), wrong))
    with pytest.raises(ValueError, match="integers"):
        battles.step(torch.zeros(2, 3))


def test_an_unknown_map_and_a_missing_or_other_package_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"2c_vs_64zg.*choose one of 3m"):
        SMAXEnv("2c_vs_64zg")
    load = smax_program.load_program.__wrapped__
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.0")
    with pytest.raises(UserError, match=r"jaxmarl 0\.1\.0 is installed"):
        load("3m")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*\[smax\]"):
        load("3m")


@pytest.mark.slow
def test_a_battle_is_the_one_that_jaxmarl_plays_alone() -> None:
    """The package's own functions, one battle without vmap, padding or casts."""
    env, generator = SMAXEnv("2s3z"), torch.Generator().manual_seed(1)
    seeds = torch.tensor([5, 2**41 + 3])
    observations = env.reset(seeds)
    oracle = SMAXProgram("2s3z")._env
    import jax

    keys = [smax_program._stream(row, 0) for row in split_seeds(seeds.numpy(), 2)]
    seen, state = oracle.reset(keys[1])
    step = jax.jit(oracle.step_env)
    for t in range(40):
        mine = np.stack([seen[agent] for agent in oracle.agents])
        np.testing.assert_allclose(observations[1].numpy(), mine, atol=1e-5)
        assert env.legal is not None
        scores = torch.rand(env.legal.shape, generator=generator)
        actions = scores.masked_fill(~env.legal, -1.0).argmax(-1)
        key = smax_program._stream(split_seeds(seeds.numpy(), 2)[1], t + 1)
        chosen = {agent: int(actions[1, i]) for i, agent in enumerate(oracle.agents)}
        seen, state, rewards, done, _ = step(key, state, chosen)
        result = env.step(actions)
        observations = result.observations
        assert abs(float(rewards["ally_0"]) - float(result.rewards[1, 0])) < 1e-5
        assert bool(done["__all__"]) == bool((result.terminated | result.truncated)[1])
        if bool(done["__all__"]):
            break
    else:
        pytest.fail("the battle did not end")


def test_a_collected_set_knows_its_win_rate(battles: SMAXEnv, tmp_path: Path) -> None:
    data = CollectedDataset(
        "smax_tiny", battles, BattleSnapshots("medium"), 40, seed=0, discount=0.99, root=str(tmp_path)
    )
    manifest = read_manifest(data.ensure(progress=False))
    returns = [row for row in manifest.return_knots]
    assert manifest.behavior["name"] == "medium"
    assert abs(manifest.behavior["win_rate"] - np.mean(np.array(returns) > 1.5)) < 0.03
    assert 0 < manifest.behavior["win_rate"] < 1


def test_shipped_behaviors_act_alone_and_as_well_as_their_story_says(battles: SMAXEnv) -> None:
    from data_modules.behavior.snapshots import read_story

    story = read_story("smax_3m")
    assert story["environment_fingerprint"] == battles.spec.fingerprint
    for quality, told in story["snapshots"].items():
        (policy,) = BattleSnapshots(quality).policies(battles.spec)
        won = run_rollout(policy, battles, evaluation_seeds(7, "report", 512), ("test",), chunk=128).won
        assert won is not None
        spread = (told["win_rate"] * (1 - told["win_rate"]) * (1 / 512 + 1 / story["evaluation_episodes"])) ** 0.5
        assert abs(float(won.double().mean()) - told["win_rate"]) < 4 * spread + 0.01, quality
        assert certify(policy, battles, seed=0, n_episodes=4).passed
    with pytest.raises(UserError, match=r"'expert'.*good"):
        BattleSnapshots("expert").identity(battles.spec)
