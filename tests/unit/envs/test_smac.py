"""SMAC's adapter against a double: neither packages nor game are here."""

import gc
import random
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dof_lightning.config import catalog
from dof_lightning.envs.smac.env import SmacEnv
from dof_lightning.envs.smac.scenarios import SCENARIOS
from dof_lightning.errors import UserError
from dof_lightning.evaluation.score import score
from dof_lightning.policy import DecentralizedPolicy
from tests.contracts import test_environments as contract
from tests.fixtures import smac_double
from tests.fixtures.small_spec import small_spec
from tests.fixtures.synthetic import build_algorithm

OPTIONS = [option for option in catalog.options("env") if option.startswith(("smac_", "smacv2_"))]
SEEDS = torch.tensor([3, 14, 15, 92])


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smac_double.install(monkeypatch, tmp_path)


def battle(env: SmacEnv, seeds: Tensor, generator: torch.Generator) -> list:
    """Random legal actions to the end."""
    env.reset(seeds)
    return battle_on(env, generator, env.spec.horizon)


def battle_on(env: SmacEnv, generator: torch.Generator, steps: int) -> list:
    results: list = []
    while len(results) < steps and not (results and bool((results[-1].terminated | results[-1].truncated).all())):
        assert env.legal is not None
        draws = torch.rand(env.legal.shape, generator=generator).masked_fill(~env.legal, -1.0)
        results.append(env.step(draws.argmax(-1)))
    return results


def test_every_scenario_has_an_option() -> None:
    worlds = {option: contract.build_env(option) for option in OPTIONS}
    played = {option: env for option, env in worlds.items() if isinstance(env, SmacEnv)}
    assert {env.scenario for env in played.values()} == set(SCENARIOS)
    assert all(env.spec.name == option for option, env in played.items())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("option", ["smac_3m", "smac_5m_vs_6m", "smac_2c_vs_64zg", "smacv2_terran_5_vs_5"])
def test_with_the_game_it_keeps_the_contract_of_every_environment(option: str) -> None:
    contract.test_shapes_and_the_time_limit_are_those_of_the_spec(option)
    contract.test_an_episode_is_a_function_of_its_seed_and_its_own_actions(option)
    contract.test_actions_that_cannot_be_meant_are_refused(option)


def test_the_dead_may_do_nothing_and_the_living_anything_but_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    smac_double.install(monkeypatch, tmp_path, fade=0.2)
    env = SmacEnv(scenario="3m")
    results = battle(env, SEEDS, torch.Generator().manual_seed(0))
    alive = torch.stack([result.info.alive for result in results])
    legal = torch.stack([result.info.legal for result in results])
    assert bool(alive[0].any())
    assert bool((~alive[-1]).any())
    assert torch.equal(legal[..., 0], ~alive)
    assert bool((legal[..., 1:].any(-1) == alive).all())
    assert bool((alive[1:] <= alive[:-1]).all())


@pytest.mark.usefixtures("double")
def test_a_look_draws_from_nothing_but_seed_and_step() -> None:
    """SMACv2 shuffles in `get_obs`: whatever the global generators are at, and however often it is looked."""

    def observed(state_of_the_world: int) -> Tensor:
        random.seed(state_of_the_world)
        np.random.seed(state_of_the_world)  # noqa: NPY002
        env = SmacEnv(scenario="terran_5_vs_5")
        first = env.reset(SEEDS)
        results = battle_on(env, torch.Generator().manual_seed(0), steps=5)
        return torch.stack([first, *(result.observations for result in results)])

    once, again = observed(1), observed(2)
    assert torch.equal(once, again)
    assert len(once[:, 0, 0, 2:5].unique(dim=0)) > 2, "the double shuffles"
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    env = SmacEnv(scenario="terran_5_vs_5")
    seen = env.reset(SEEDS)
    assert env._rows is not None
    env._look(env._rows, 0)
    assert torch.equal(torch.from_numpy(env._rows.observations), seen)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.usefixtures("double")
def test_a_battle_is_won_once_and_terminates() -> None:
    env = SmacEnv(scenario="3m")
    results = battle(env, SEEDS, torch.Generator().manual_seed(0))
    won = torch.stack([result.info.won for result in results])
    terminated = torch.stack([result.terminated for result in results])
    ends = terminated.long().argmax(0)
    assert bool(won.any())
    assert bool((won.sum(0) <= 1).all())
    assert all(bool(terminated[ends[e], e]) for e in won.any(0).nonzero()[:, 0])
    after = torch.arange(len(results))[:, None] > ends
    assert bool((torch.stack([result.rewards for result in results])[after & terminated] == 0).all())


def test_a_time_limit_is_no_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smac_double.install(monkeypatch, tmp_path, fade=0.0)
    env = SmacEnv(scenario="3m")
    env.reset(SEEDS)
    for _ in range(env.spec.horizon):
        assert env.legal is not None
        last = env.step(env.legal.long().argmax(-1))  # everybody stops: nobody wins, nobody dies
    assert bool(last.truncated.all())
    assert not bool(last.terminated.any())


@pytest.mark.usefixtures("double")
def test_an_illegal_action_is_refused_with_its_place() -> None:
    env = SmacEnv(scenario="3m")
    env.reset(SEEDS)
    actions = torch.ones(len(SEEDS), 3, dtype=torch.int64)
    actions[2, 1] = 0
    with pytest.raises(ValueError, match="actions: 0 is not legal for agent 1 of row 2"):
        env.step(actions)
    with pytest.raises(ValueError, match="actions: 99"):
        env.step(torch.full_like(actions, 99))


@pytest.mark.usefixtures("double")
def test_games_are_ended_before_new_ones_begin_and_with_the_environment() -> None:
    before = smac_double.StarCraft2Env.open_games
    env = SmacEnv(scenario="8m")
    for _ in range(2):
        env.reset(SEEDS)
        assert smac_double.StarCraft2Env.open_games == before + len(SEEDS)
    del env
    assert smac_double.StarCraft2Env.open_games == before


@pytest.mark.usefixtures("double")
def test_more_games_than_may_run_are_refused() -> None:
    env = SmacEnv(scenario="3m")
    with pytest.raises(UserError, match=f"at most {env.episodes_at_once} games"):
        env.reset(torch.arange(env.episodes_at_once + 1))


@pytest.mark.usefixtures("double")
def test_a_score_is_measured_a_few_games_at_a_time() -> None:
    env = SmacEnv(scenario="3m")
    agent = env.spec.agents[0]
    spec = small_spec((agent.action_dim,) * 3, agent.observation_dim, action_kind="discrete")
    policy: DecentralizedPolicy = build_algorithm("algorithm=dof_cloning", "sampler.steps=2", spec=spec).policy()
    measured = score(policy, env, {"seed": 0, "rollout": {"report_episodes": 2 * env.episodes_at_once + 1}})
    assert measured.episodes == 17
    assert measured.certificate["passed"]


def test_another_variant_of_the_game_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smac_double.install(monkeypatch, tmp_path, observation_dim=332, state_dim=342)
    before = smac_double.StarCraft2Env.open_games
    with pytest.raises(UserError, match=r"2c_vs_64zg.*obs_shape 332 \(data: 478\), state_shape 342 .*rollout=none"):
        SmacEnv(scenario="2c_vs_64zg").reset(SEEDS)
    assert smac_double.StarCraft2Env.open_games == before


def test_a_game_that_stops_answering_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smac_double.install(monkeypatch, tmp_path)
    env = SmacEnv(scenario="3m")
    env.reset(SEEDS)
    monkeypatch.setattr(smac_double.StarCraft2Env, "step", lambda self, actions: (0, True, {}))
    with pytest.raises(UserError, match="stopped in mid-battle"):
        env.step(torch.ones(len(SEEDS), 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError(0), r"env=smac_3m: StarCraft II died while a battle was started \(KeyError: 0\); type the same"),
        (type("DuplicateMapError", (Exception,), {})("3m"), "smac and smacv2 cannot be played in one process"),
    ],
)
def test_a_game_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, words: str
) -> None:
    smac_double.install(monkeypatch, tmp_path)

    def fail(self: smac_double.StarCraft2Env) -> None:
        raise error

    monkeypatch.setattr(smac_double.StarCraft2Env, "reset", fail)
    with pytest.raises(UserError, match=words):
        SmacEnv(scenario="3m").reset(SEEDS)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scenario", ["3m", "terran_5_vs_5"])
def test_games_that_are_over_are_not_kept_until_the_process_ends(scenario: str) -> None:
    env = SmacEnv(scenario=scenario)
    env.reset(SEEDS)
    games = [weakref.ref(game) for game in env._games]
    env.reset(SEEDS)
    gc.collect()
    assert [game() for game in games] == [None] * len(SEEDS)


@pytest.mark.usefixtures("double")
def test_a_package_that_clashes_with_protobuf_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise TypeError("Descriptors cannot be created directly.\nIf this call came from a _pb2.py file ...")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(UserError, match=r"'smac' cannot be imported \(Descriptors.*protobuf<3\.21"):
        SmacEnv(scenario="3m").reset(SEEDS)


def test_what_is_missing_is_said_step_by_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = SmacEnv(scenario="3m")
    monkeypatch.setitem(sys.modules, "smac", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "oxwhirl/smac.git" in (env.missing or "")
    assert "oxwhirl/smacv2.git" in (SmacEnv(scenario="zerg_5_vs_5").missing or "")
    with pytest.raises(UserError, match=r"env=smac_3m cannot be played.*env=smax_3m.*rollout=none"):
        env.reset(SEEDS)
    monkeypatch.undo()
    smac_double.install_smac3(monkeypatch)
    assert "another project" in (env.missing or "")
    smac_double.install(monkeypatch, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in (env.missing or "")
    smac_double.install(monkeypatch, tmp_path)
    assert env.missing is None


def test_an_unknown_scenario_is_refused_with_the_known() -> None:
    with pytest.raises(UserError, match=r"env\.scenario=4m is unknown; choose one of 3m"):
        SmacEnv(scenario="4m")
