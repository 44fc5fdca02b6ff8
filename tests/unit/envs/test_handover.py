"""Values that environments hand over: checked, or refused in one line with environment, agent, step and seed."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from dof_lightning.envs.base import StepInfo
from dof_lightning.envs.pettingzoo.env import PettingZooEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import run_rollout
from tests.fixtures import pettingzoo_outpost
from tests.fixtures.toy_world import ToyEnv
from tests.unit.envs.test_pettingzoo import SEEDS, Waiting, draw_actions, outpost, spread
from tests.unit.rollout.test_rollout import assert_same_episodes, play


def tells(monkeypatch: pytest.MonkeyPatch, part: int, value: Any, call: str = "step") -> PettingZooEnv:
    """An outpost that reports something else about the guard: a value, or a function of the right one.

    `part` is its place in what `call` returns.
    """
    told_well = getattr(pettingzoo_outpost.Outpost, call)
    env = outpost(masks_in="info")

    def told_badly(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = list(told_well(self, *args, **kwargs))
        given = answer[part]["guard"]
        answer[part] = {**answer[part], "guard": value(given) if callable(value) else value}
        return tuple(answer)

    monkeypatch.setattr(pettingzoo_outpost.Outpost, call, told_badly)
    return env


@pytest.mark.parametrize(
    ("call", "part", "value", "words"),
    [
        ("step", 0, lambda seen: seen[:1], "observation has 2 numbers, but its observation_space has 4"),
        ("step", 0, lambda seen: np.stack([seen, seen]), "observation has 8 numbers, but its observation_space has 4"),
        ("reset", 0, lambda seen: seen[:1], "observation has 2 numbers, but its observation_space has 4"),
        ("step", 0, "a picture", "observation is not an array of numbers"),
        ("step", 0, lambda seen: seen * np.nan, "number 0 of the observation is nan .episode with seed 2"),
        ("reset", 0, lambda seen: seen + np.inf, "observation is inf"),
        ("step", 1, np.ones(2), r"reward has shape \[2\], it must be one number"),
        ("step", 1, None, "reward is None, it must be a finite 32-bit number"),
        ("step", 1, float("nan"), "reward is nan"),
        ("step", 1, float("inf"), "reward is inf"),
        ("step", 1, 1e39, r"the reward is 1e\+39, it must be a finite 32-bit number"),
        ("step", 4, {"action_mask": np.ones(3)}, "action_mask has 3 entries, but there are 4 choices"),
    ],
)
def test_what_an_environment_hands_over_is_checked(
    monkeypatch: pytest.MonkeyPatch, call: str, part: int, value: Any, words: str
) -> None:
    env = tells(monkeypatch, part, value, call)
    when = "at reset" if call == "reset" else "at step 1"
    with pytest.raises(UserError, match=f"^env=outpost, agent 'guard', {when}: .*{words}"):
        run_rollout(Waiting(), env, torch.tensor([2]), (0,))


@pytest.mark.parametrize(
    ("call", "answer", "words"),
    [
        ("reset", {"scout": 0}, r"at reset: reset returned a dict, but it must return \(observations, infos\)"),
        ("step", ({}, {}, {}, {}), "at step 1: step returned a tuple of 4, but it must return .observations, rewards"),
        ("step", ({}, [1.0, 2.0], {}, {}, {}), "rewards are a list, they must be a dictionary"),
        ("step", ({"enemy": [0]}, {}, {}, {}, {}), "agent 'enemy'.*not among possible_agents .scout, guard"),
        ("step", ({}, {}, {}, {}, {}), "agent 'scout'.*still present but has no reward"),
    ],
)
def test_an_answer_of_another_form_is_refused(
    monkeypatch: pytest.MonkeyPatch, call: str, answer: Any, words: str
) -> None:
    env = outpost()
    monkeypatch.setattr(pettingzoo_outpost.Outpost, call, lambda self, *args, **kwargs: answer)
    with pytest.raises(UserError, match=words):
        run_rollout(Waiting(), env, torch.tensor([2]), (0,))


@pytest.mark.parametrize("value", [None, {}])
def test_an_agent_without_infos_is_told_no_mask(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    env = tells(monkeypatch, 4, value)
    env.reset(torch.tensor([2]))
    result = env.step(torch.zeros(1, 2, dtype=torch.int64))
    assert result.info.legal is not None
    assert result.info.legal[0].tolist() == [[False, True, False, False], [True, True, True, True]]


def test_rewards_of_one_entry_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    env = tells(monkeypatch, 1, lambda reward: np.array([reward], dtype=np.float32))
    env.reset(torch.tensor([2]))
    assert env.step(torch.tensor([[1, 3]])).rewards.tolist() == [[1, 3]]


def test_who_has_died_earns_nothing_even_if_it_stays_among_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scout of seed 0 ends at its first step; the environment goes on as if it were there."""
    told_well = pettingzoo_outpost.Outpost.step

    def step(self: Any, actions: dict) -> tuple:
        assert list(actions) == list(self.agents)
        answer = told_well(self, actions)
        self.agents = list(self.possible_agents) if self.agents else []
        return answer

    monkeypatch.setattr(pettingzoo_outpost.Outpost, "step", step)
    env = outpost()
    env.reset(torch.tensor([0]))
    alive, rewards = [], []
    for number in range(1, 4):
        result = env.step(torch.tensor([[1, 3 - number]]))
        assert result.info.alive is not None
        alive.append(result.info.alive[0].tolist())
        rewards.append(result.rewards[0].tolist())
    assert alive == [[False, True]] * 3
    assert rewards == [[1, 2], [0, 1], [0, 0]]


def test_a_global_state_that_changes_its_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = spread(global_state=True)
    env.reset(SEEDS)
    monkeypatch.setattr(type(env._copies[0].unwrapped), "state", lambda self: np.zeros(1))
    with pytest.raises(UserError, match=r"env=mpe2_spread, at step 1: state\(\) has 1 numbers, .* had 54"):
        env.step(draw_actions(env, 3, 0))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rewards", torch.full((30, 3), torch.nan), "agent 'agent_0', at step 1: the reward is nan .episode with seed"),
        ("rewards", torch.zeros(30), r"at step 1: rewards has shape \[30\], the spec requires \[30, 3\]"),
        ("observations", torch.full((30, 3, 4), torch.inf), "agent_0.*: number 0 of the observation is inf"),
        ("observations", torch.zeros(30, 3, 5), "observations has shape"),
        ("info", StepInfo(legal=torch.ones(30, 3, 7, dtype=torch.bool)), "legal has shape"),
        ("terminated", torch.zeros(30, 1, dtype=torch.bool), r"terminated has shape \[30, 1\]"),
    ],
)
def test_what_any_environment_hands_over_is_checked(field: str, value: Any, words: str) -> None:
    class Broken(ToyEnv):
        def step(self, actions: torch.Tensor):
            return dataclasses.replace(super().step(actions), **{field: value})

    with pytest.raises(UserError, match=f"^env=toy.*{words}"):
        play(Broken())


def test_what_is_handed_over_after_an_episodes_end_does_not_count() -> None:
    class Careless(ToyEnv):
        def step(self, actions: torch.Tensor):
            over = self._time >= self._lengths
            result = super().step(actions)
            return dataclasses.replace(result, rewards=result.rewards.masked_fill(over[:, None], torch.nan))

    assert_same_episodes(play(Careless(early=True)), play(ToyEnv(early=True)))
