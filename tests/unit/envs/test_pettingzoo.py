"""PettingZoo environments as ours, compared with stepping them by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.envs.pettingzoo.env import PettingZooEnv
from dof_lightning.envs.pettingzoo.rows import Ended, Rows
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from tests.fixtures import pettingzoo_outpost

SEEDS = torch.tensor([3, 11, 4_000_000_000_000_000_003])


def spread(**changes: Any) -> PettingZooEnv:
    settings = {"name": "mpe2_spread", "factory": "mpe2.simple_spread_v3.parallel_env", "horizon": 25}
    return PettingZooEnv(**(settings | {"arguments": {"continuous_actions": True}} | changes))


def tag(**changes: Any) -> PettingZooEnv:
    return spread(name="mpe2_tag", factory="mpe2.simple_tag_v3.parallel_env", **changes)


def outpost(horizon: int = 10, **arguments: Any) -> PettingZooEnv:
    return PettingZooEnv(
        name="outpost", factory="tests.fixtures.pettingzoo_outpost.parallel_env", horizon=horizon, arguments=arguments
    )


class Waiting(DecentralizedPolicy):
    """Takes the first legal choice."""

    n_agents = 2

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n_episodes, self.n_agents)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        assert legal is not None
        return legal.long().argmax(-1), carry


def draw_actions(env: PettingZooEnv, n_episodes: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    spec = env.spec
    if spec.action_kind == "discrete":
        choices = torch.tensor([agent.action_dim for agent in spec.agents])
        return torch.randint(0, 1000, (n_episodes, spec.n_agents), generator=generator) % choices
    return torch.rand(n_episodes, spec.n_agents, spec.action_dim, generator=generator) * 2 - 1


def by_hand(env: PettingZooEnv, make: Callable[[], Any], seed: int, episode: int, n_episodes: int) -> None:
    """Steps one environment beside the adapter's episode `episode` of `n_episodes`."""
    observations = env.reset(SEEDS[:n_episodes])
    theirs = make()
    seen, _ = theirs.reset(seed=seed)
    _assert_seen(observations[episode], seen, theirs)
    while theirs.agents:
        actions = draw_actions(env, n_episodes, int(env._time))
        live = list(theirs.agents)
        seen, rewards, terminated, truncated, _ = theirs.step(
            {
                agent: _theirs(actions[episode, i], env.spec.agents[i].action_dim, env.spec.action_kind)
                for i, agent in enumerate(theirs.possible_agents)
            }
        )
        result = env.step(actions)
        _assert_seen(result.observations[episode], seen, theirs)
        assert result.rewards[episode].tolist() == pytest.approx([rewards[agent] for agent in live])
        assert bool(result.terminated[episode]) == all(terminated.values())
        assert bool(result.truncated[episode]) == all(truncated.values())


def _assert_seen(ours: Tensor, theirs: dict, env: Any) -> None:
    for row, agent in zip(ours.numpy(), env.possible_agents, strict=True):
        np.testing.assert_array_equal(row[: len(theirs[agent])], theirs[agent])
        assert not row[len(theirs[agent]) :].any()


def _theirs(action: Tensor, dim: int, kind: str) -> Any:
    return int(action) if kind == "discrete" else ((action[:dim].double() + 1) / 2).float().numpy()


@pytest.mark.parametrize("episode", [0, 2])
def test_mpe2_spread_is_the_same_as_by_hand(episode: int) -> None:
    from mpe2 import simple_spread_v3

    seed = int(SEEDS[episode]) % 2**31
    by_hand(spread(), lambda: simple_spread_v3.parallel_env(continuous_actions=True), seed, episode, 3)


def test_agents_with_different_spaces_are_padded() -> None:
    from mpe2 import simple_tag_v3

    env = tag()
    assert [(a.observation_dim, a.action_dim) for a in env.spec.agents] == [(16, 5)] * 3 + [(14, 5)]
    assert [a.name for a in env.spec.agents] == ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    by_hand(env, lambda: simple_tag_v3.parallel_env(continuous_actions=True), 11, 1, 2)


def test_discrete_actions_are_indices() -> None:
    from mpe2 import simple_spread_v3

    env = spread(arguments={"continuous_actions": False})
    assert (env.spec.action_kind, env.spec.action_dim) == ("discrete", 5)
    by_hand(env, simple_spread_v3.parallel_env, 3, 0, 2)
    assert env.legal is None


def test_our_own_world_through_its_wrapper_is_itself() -> None:
    factory = "dof_lightning.envs.particle.parallel_env.ParticleParallelEnv"
    env, world = spread(factory=factory, arguments={"task": "tag", "prey": "still"}), ParticleEnv("tag", prey="still")
    torch.testing.assert_close(env.reset(SEEDS[:2]), world.reset(SEEDS[:2]), rtol=0, atol=0)
    for step in range(world.spec.horizon):
        actions = draw_actions(env, 2, step)
        ours, theirs = env.step(actions), world.step(actions)
        torch.testing.assert_close(ours.observations, theirs.observations, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.rewards, theirs.rewards, rtol=1e-5, atol=1e-4)
    assert ours.truncated.all()


@pytest.mark.parametrize("make", [spread, tag, outpost])
def test_a_batch_equals_its_episodes_one_by_one_and_copies_are_used_again(make: Callable[[], PettingZooEnv]) -> None:
    def play(env: PettingZooEnv, seeds: Tensor, episodes: slice) -> list[Tensor]:
        rows = [env.reset(seeds)]
        for step in range(4):
            result = env.step(draw_actions(env, 3, step)[episodes])
            rows += [result.observations, result.rewards[..., None]]
        return rows

    env = make()
    together = play(env, SEEDS, slice(0, 3))
    copies = list(env._copies)
    for e in (2, 0):
        alone = play(env, SEEDS[e : e + 1], slice(e, e + 1))
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[e], rtol=0, atol=0)
    assert env._copies == copies


def test_results_stay_what_they_were() -> None:
    env = spread()
    kept = (first := env.reset(SEEDS)).clone()
    result = env.step(draw_actions(env, 3, 0))
    before = [result.observations.clone(), result.rewards.clone(), result.truncated.clone()]
    env.step(draw_actions(env, 3, 1))
    assert torch.equal(first, kept)
    for now, then in zip((result.observations, result.rewards, result.truncated), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("masks_in", ["observation", "info"])
@pytest.mark.parametrize("start", [0, 5])
def test_masks_are_legal_actions_and_agents_leave(masks_in: str, start: int) -> None:
    """Seed 0: the scout leaves after one step; seed 2: after three; the guard is cut at the fourth."""
    env = outpost(masks_in=masks_in, start=start)
    assert [(a.observation_dim, a.action_dim) for a in env.spec.agents] == [(4, 2), (4, 4)]
    observations = env.reset(torch.tensor([0, 2]))
    assert observations[1].tolist() == [[2, 0, 0, 7]] * 2
    assert env.legal is not None
    assert env.legal[0].tolist() == [[False, True, False, False], [False, True, True, True]]
    alive, rewards = [], []
    for step in range(1, 5):
        result = env.step(torch.tensor([[1, step % 4], [step % 2, 3]]))
        assert result.info.legal is not None
        alive.append(result.info.alive.tolist())
        rewards.append(result.rewards.tolist())
        gone = ~result.info.alive
        assert not result.observations[gone].any()
        assert result.info.legal[gone].tolist() == [[True, False, False, False]] * int(gone.sum())
        assert result.truncated.tolist() == [step == 4] * 2
        assert not result.terminated.any()
    assert alive == [[[False, True], [True, True]], [[False, True], [True, True]]] + [[[False, True]] * 2] * 2
    assert rewards == [[[1, 1], [1, 3]], [[0, 2], [0, 3]], [[0, 3], [1, 3]], [[0, 0], [0, 3]]]
    assert result.observations[0, 1].tolist() == [0, 4, 0, 7]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(torch.zeros(2, 2, dtype=torch.int64))


def test_an_episode_that_really_ends_is_terminated_and_its_last_row_is_seen() -> None:
    env = outpost(guard_falls=True)
    env.reset(torch.tensor([0]))
    for step in range(1, 5):
        result = env.step(torch.zeros(1, 2, dtype=torch.int64))
        assert bool(result.terminated) == (step == 4)
        assert not result.truncated.any()
    assert result.observations[0, 1].tolist() == [0, 4, 0, 7]


def test_who_ended_by_itself_when_a_time_limit_took_the_others_is_gone() -> None:
    rows = Rows.empty(1, 3, observation_dim=1, legal_dim=0, state_dim=0)
    fell, cut = Ended(True, False, True), Ended(False, True, True)
    assert rows.end_step(0, {0: fell, 2: cut}) == [2]
    assert (rows.terminated.tolist(), rows.truncated.tolist()) == ([False], [True])
    assert rows.alive.tolist() == [[False, False, True]]


def test_the_horizon_cuts_what_the_environment_would_go_on_with() -> None:
    env = outpost(horizon=2)
    env.reset(torch.tensor([0]))
    ends = [bool(env.step(torch.zeros(1, 2, dtype=torch.int64)).truncated) for _ in range(2)]
    assert ends == [False, True]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(torch.zeros(1, 2, dtype=torch.int64))


def test_boxes_of_any_finite_range_are_mapped_affinely() -> None:
    env = outpost(masks_in="nowhere", high=3.0)
    assert env.spec.action_mask().sum(1).tolist() == [2, 4]
    translated = env._actions.translate(torch.tensor([[[-1.0, 0, 9, 9], [1, 0.5, -7, 7]]]))
    assert env._actions.pick(translated[0, 0], 0).tolist() == [-1, 1]
    assert env._actions.pick(translated[0, 1], 1).tolist() == [3, 2, -1, 3]


def test_the_global_state_is_recorded_where_it_is_wanted() -> None:
    env = spread(global_state=True)
    observations = env.reset(SEEDS)
    assert env.spec.state_dim == 54
    assert torch.equal(env.state, observations.flatten(1))
    result = env.step(draw_actions(env, 3, 0))
    assert torch.equal(result.info.state, result.observations.flatten(1))
    assert spread().spec.fingerprint != env.spec.fingerprint


def test_pictures_need_no_display() -> None:
    env = spread()
    env.reset(SEEDS)
    assert env.can_render
    before = env.render(1)
    assert (before.shape, before.dtype) == ((700, 700, 3), np.uint8)
    for step in range(2):  # the first only gives speed
        env.step(draw_actions(env, 3, step))
    assert not np.array_equal(before, env.render(1))
    blind = outpost()
    blind.reset(SEEDS)
    assert not blind.can_render
    with pytest.raises(RuntimeError, match=r"outpost cannot draw.*rgb_array"):
        blind.render(0)


def test_what_changes_the_data_changes_the_fingerprint_and_pictures_do_not() -> None:
    base = {"N": 3, "continuous_actions": True}
    envs = [
        spread(arguments=base),
        spread(arguments=base | {"N": 2}),
        spread(arguments=base | {"local_ratio": 0.2}),
        spread(arguments=base | {"continuous_actions": False}),
        spread(arguments=base, horizon=24),
        tag(),
    ]
    assert len({env.spec.fingerprint for env in envs}) == len(envs)
    assert spread(arguments=base | {"render_mode": None}).spec.fingerprint == envs[0].spec.fingerprint
    assert envs[0].spec.recipe["version"]


def test_wrong_actions_are_refused() -> None:
    env = spread()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(torch.zeros(3, 3, 5))
    env.reset(SEEDS)
    for wrong, words in ((torch.zeros(3, 3, 2), "shape"), (torch.full((3, 3, 5), float("nan")), "finite")):
        with pytest.raises(ValueError, match=words):
            env.step(wrong)
    game = outpost()
    game.reset(SEEDS)
    for index in (torch.tensor([[2, 0]] * 3), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="discrete action"):
            game.step(index)


def test_the_small_game_follows_pettingzoos_rules() -> None:
    from pettingzoo.test import parallel_api_test

    parallel_api_test(pettingzoo_outpost.parallel_env(masks_in="info"), num_cycles=20)


def test_an_agent_that_is_missing_at_some_resets_is_refused() -> None:
    env = outpost(joins_late=True)
    env.reset(torch.tensor([2, 4]))
    with pytest.raises(UserError, match=r"scout.*joins later, which is not supported"):
        env.reset(torch.tensor([2, 3]))


def test_masks_that_appear_after_the_reset_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be ignored: whether there are any is decided at a reset."""
    monkeypatch.setitem(pettingzoo_outpost.CHOICES, "scout", pettingzoo_outpost.CHOICES["guard"])
    env = outpost(masks_in="later")
    env.reset(torch.tensor([2]))
    with pytest.raises(UserError, match=r"action_mask.*at a reset"):
        env.step(torch.zeros(1, 2, dtype=torch.int64))
