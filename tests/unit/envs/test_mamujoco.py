"""MA-MuJoCo through the adapter, compared with gymnasium-robotics stepped by hand."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dof_lightning.envs.mamujoco import MaMuJoCoEnv
from dof_lightning.errors import UserError

SEEDS = torch.tensor([5, 4_000_000_000_000_000_003])


def robot(scenario: str, agent_conf: str, **changes: Any) -> MaMuJoCoEnv:
    return MaMuJoCoEnv(**({"name": "robot", "scenario": scenario, "agent_conf": agent_conf, "agent_obsk": 1} | changes))


@cache
def ants() -> MaMuJoCoEnv:
    return robot("Ant", "4x2")


def draw_actions(env: MaMuJoCoEnv, step: int, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return (torch.rand(len(SEEDS), env.spec.n_agents, env.spec.action_dim, generator=generator) * 2 - 1) * size


def play_beside(env: MaMuJoCoEnv, scenario: str, agent_conf: str, size: float) -> tuple[int, bool]:
    """Compares the second of two episodes with one played by hand; its length and whether it terminated."""
    from gymnasium_robotics import mamujoco_v1

    theirs = mamujoco_v1.parallel_env(scenario, agent_conf, agent_obsk=1)
    ours = env.reset(SEEDS)
    seen, _ = theirs.reset(seed=int(SEEDS[1]) % 2**31)
    same_rows(ours[1], seen)
    step, ended = 0, False
    while theirs.agents:
        actions = draw_actions(env, step, size)
        by_name = {agent: actions[1, i].numpy() for i, agent in enumerate(theirs.possible_agents)}
        seen, rewards, terminated, truncated, _ = theirs.step(by_name)
        result = env.step(actions)
        step += 1
        same_rows(result.observations[1], seen)
        assert result.rewards[1].tolist() == pytest.approx(list(rewards.values()), rel=1e-5, abs=1e-5)
        assert result.info.state is not None
        np.testing.assert_allclose(result.info.state[1], theirs.state(), rtol=1e-5, atol=1e-5)
        ended = all(terminated.values())
        assert bool(result.terminated[1]) == ended
        assert bool(result.truncated[1]) == all(truncated.values())
    return step, ended


def same_rows(ours: Tensor, theirs: dict[str, np.ndarray]) -> None:
    for row, theirs_row in zip(ours.numpy(), theirs.values(), strict=True):
        np.testing.assert_allclose(row, theirs_row, rtol=1e-5, atol=1e-5)


def test_half_cheetah_is_the_same_as_by_hand_up_to_its_time_limit() -> None:
    env = robot("HalfCheetah", "2x3")
    assert [(a.observation_dim, a.action_dim) for a in env.spec.agents] == [(12, 3)] * 2
    assert env.spec.state_dim == 17
    assert play_beside(env, "HalfCheetah", "2x3", size=1.0) == (1000, False)


def test_an_ant_that_jumps_terminates_as_by_hand() -> None:
    steps, terminated = play_beside(ants(), "Ant", "4x2", size=1.0)
    assert terminated
    assert steps < 1000


def test_rows_of_an_ant_that_has_ended_stay() -> None:
    """The other ant is still running by then."""
    env = ants()
    env.reset(SEEDS)
    for step in range(1000):
        result = env.step(draw_actions(env, step, size=1.0))
        if bool(result.terminated.any()):
            break
    over = result.terminated
    assert int(over.sum()) == 1
    later = env.step(draw_actions(env, 0, size=1.0))
    assert torch.equal(later.observations[over], result.observations[over])
    assert not later.rewards[over].any()
    assert not torch.equal(later.observations[~over], result.observations[~over])


def test_a_shorter_horizon_truncates() -> None:
    env = robot("HalfCheetah", "2x3", horizon=3)
    env.reset(SEEDS)
    ends = [env.step(draw_actions(env, step, size=0.1)) for step in range(3)]
    assert [bool(end.truncated.all()) for end in ends] == [False, False, True]
    assert not ends[-1].terminated.any()


def test_partitions_of_different_agents_are_padded() -> None:
    env = robot("HalfCheetah", "6x1")
    dims = [agent.observation_dim for agent in env.spec.agents]
    assert len(set(dims)) > 1
    observations = env.reset(SEEDS)
    assert not observations[:, ~env.spec.observation_mask()].any()


def test_the_recipe_knows_the_task_and_its_physics_but_not_its_pictures() -> None:
    env = robot("HalfCheetah", "2x3", horizon=3)
    assert env.spec.recipe["arguments"] == {"scenario": "HalfCheetah", "agent_conf": "2x3", "agent_obsk": 1}
    assert set(env.spec.recipe["depends_on"]) == {"mujoco"}
    assert env.spec.fingerprint == robot("HalfCheetah", "2x3", horizon=3, picture_size=64).spec.fingerprint
    assert env.spec.fingerprint != robot("HalfCheetah", "2x3", horizon=4).spec.fingerprint
    assert env.spec.fingerprint != robot("HalfCheetah", "2x3", horizon=3, agent_obsk=0).spec.fingerprint


@pytest.mark.parametrize(
    ("scenario", "agent_conf", "changes", "words"),
    [
        ("Ant", "9x9", {}, "env.scenario=Ant with env.agent_conf=9x9"),
        ("Cat", "2x3", {}, "env.scenario=Cat"),
        ("HalfCheetah", "2x3", {"horizon": 1001}, "env.horizon=1001.*1000 steps at most"),
        ("HalfCheetah", "2x3", {"horizon": 0}, "env.horizon=0"),
    ],
)
def test_mistakes_are_one_line(scenario: str, agent_conf: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        robot(scenario, agent_conf, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["mujoco", "gymnasium_robotics"])
def test_a_missing_package_says_which_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str, *others: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *others)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=rf"needs the package '{package}': pip install -e '.\[mamujoco\]'$"):
        robot("Ant", "4x2")


def test_nothing_is_written_where_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MuJoCo's own handler would complain of each copy's file, there and in a log."""
    monkeypatch.chdir(tmp_path)
    robot("HalfCheetah", "2x3").reset(SEEDS)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
