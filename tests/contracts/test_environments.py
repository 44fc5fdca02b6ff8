"""The contract of every environment in `conf/env`."""

from functools import cache

import pytest
import torch
from torch import Tensor

from dof_lightning.config import catalog
from dof_lightning.config import compose as configuration
from dof_lightning.envs.base import StepResult, VectorEnv
from tests.fixtures.heavy_options import marked

SEEDS = torch.tensor([3, 14, 15, 92])
NEEDED = {"pettingzoo": ("env.factory=mpe2.simple_spread_v3:parallel_env", "env.horizon=25")}  # to be an environment
every_env = pytest.mark.parametrize("option", marked((option,) for option in catalog.options("env")))


def make_env(option: str) -> VectorEnv:
    """Builds an environment; those not playable here are tested with a double (`tests/unit/envs/test_smac.py`)."""
    env = build_env(option)
    if env.missing is not None:
        pytest.skip(env.missing)
    return env


@cache
def build_env(option: str) -> VectorEnv:
    typed = ["experiment=mpe_spread_random", f"env={option}", *NEEDED.get(option, ())]
    env: VectorEnv = configuration.build(configuration.compose(typed)["env"])
    return env


def actions_of(env: VectorEnv, n_steps: int) -> Tensor:
    """Random actions `[n_steps, E, N, A]` or `[n_steps, E, N]`, zero where padded."""
    spec, generator = env.spec, torch.Generator().manual_seed(0)
    shape = (n_steps, len(SEEDS), spec.n_agents)
    if spec.action_kind == "discrete":
        return torch.randint(min(agent.action_dim for agent in spec.agents), shape, generator=generator)
    return (torch.rand(*shape, spec.action_dim, generator=generator) * 2 - 1) * spec.action_mask()


def play(env: VectorEnv, seeds: Tensor, actions: Tensor) -> tuple[Tensor, list[StepResult]]:
    """Plays all steps, or those until the last episode is over."""
    first, results = env.reset(seeds), []
    for each in actions:
        results.append(env.step(legal_actions(env, each)))
        if bool((results[-1].terminated | results[-1].truncated).all()):
            break
    return first, results


def legal_actions(env: VectorEnv, actions: Tensor) -> Tensor:
    """Replaces each choice by the first legal one from it on."""
    if env.legal is None:
        return actions
    n_choices = env.spec.action_dim
    order = (actions[..., None] + torch.arange(n_choices)) % n_choices
    return order.gather(-1, env.legal.gather(-1, order).long().argmax(-1, keepdim=True)).squeeze(-1)


@every_env
def test_shapes_and_the_time_limit_are_those_of_the_spec(option: str) -> None:
    env = make_env(option)
    spec = env.spec
    first, results = play(env, SEEDS, actions_of(env, spec.horizon))
    for observations in (first, *(result.observations for result in results)):
        assert observations.shape == (len(SEEDS), spec.n_agents, spec.observation_dim)
        assert observations.dtype == torch.float32
        assert bool(observations.isfinite().all())
        assert bool((observations[:, ~spec.observation_mask()] == 0).all())
    for step, result in enumerate(results, 1):
        assert result.rewards.shape == (len(SEEDS), spec.n_agents)
        assert bool(result.rewards.isfinite().all())
        assert result.terminated.shape == result.truncated.shape == (len(SEEDS),)
        assert result.terminated.dtype == result.truncated.dtype == torch.bool
        assert step == spec.horizon or not bool(result.truncated.any()), "a time limit before the horizon"
    over = torch.stack([result.terminated | result.truncated for result in results])
    assert bool(over[-1].all()), "the horizon is no time limit"
    assert spec.horizon == 1 or not bool(over[0].any())


@every_env
def test_an_episode_is_a_function_of_its_seed_and_its_own_actions(option: str) -> None:
    env = make_env(option)
    actions = actions_of(env, min(6, env.spec.horizon))
    first, together = play(env, SEEDS, actions)
    again, repeated = play(env, SEEDS, actions)
    assert torch.equal(first, again)
    assert all(torch.equal(a.observations, b.observations) for a, b in zip(together, repeated, strict=True))
    alone, single = play(env, SEEDS[2:3], actions[:, 2:3])
    torch.testing.assert_close(alone, first[2:3])
    for one, all_of_them in zip(single, together, strict=True):
        torch.testing.assert_close(one.observations, all_of_them.observations[2:3])
        torch.testing.assert_close(one.rewards, all_of_them.rewards[2:3])
    other, _ = play(env, SEEDS + 1, actions[:0])
    assert torch.equal(other, first) != env.has_random_start


@every_env
def test_actions_that_cannot_be_meant_are_refused(option: str) -> None:
    env = make_env(option)
    env.reset(SEEDS)
    (actions,) = actions_of(env, 1)
    with pytest.raises(ValueError, match="actions"):
        env.step(actions[:, :-1])
    if actions.is_floating_point():
        actions[0, 0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            env.step(actions)


@every_env
def test_a_picture_needs_no_display(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    env = make_env(option)
    if not env.can_render:
        return
    env.reset(SEEDS)
    picture = env.render(1)
    assert picture.dtype.name == "uint8"
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert len(set(picture.reshape(-1, 3).sum(1).tolist())) > 1, "something is drawn"
