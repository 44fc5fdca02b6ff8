"""Rollouts: their sums, their dependence on noise and ranks, and whether agents are really alone."""

import dataclasses

import pytest
import torch

from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.run import Rollout, Spectator, evaluation_seeds, run_rollout, split_episodes
from tests.fixtures.toy_world import ACTION_DIM, HORIZON, N_AGENTS, OBSERVATION_DIM, ToyEnv, ToyPolicy

SEEDS = evaluation_seeds(3, "selection", 30)


def play(env: VectorEnv, seeds: torch.Tensor = SEEDS, **options) -> Rollout:
    return run_rollout(ToyPolicy(), env, seeds, (0, "test"), **options)


def assert_same_episodes(a: Rollout, b: Rollout) -> None:
    assert torch.equal(a.agent_returns, b.agent_returns)
    assert torch.equal(a.lengths, b.lengths)


def test_shapes_of_what_is_recorded() -> None:
    rollout = play(ToyEnv(battle=True), chunk=8, record=True)
    shapes = {
        field.name: tuple(value.shape)
        for field in dataclasses.fields(rollout)
        if isinstance(value := getattr(rollout, field.name), torch.Tensor)
    }
    episodes, extra = 30, (30, 1, HORIZON)
    assert shapes == {
        "returns": (episodes,),
        "agent_returns": (episodes, N_AGENTS),
        "lengths": (episodes,),
        "won": (episodes,),
        "observations": (episodes, N_AGENTS, HORIZON + 1, OBSERVATION_DIM),
        "actions": (episodes, N_AGENTS, HORIZON, ACTION_DIM),
        "rewards": (episodes, N_AGENTS, HORIZON),
        "terminated": (episodes, HORIZON),
        "legal": (episodes, N_AGENTS, HORIZON + 1, ACTION_DIM),
        "state": (episodes, HORIZON + 1, 2),
        "alive": (episodes, N_AGENTS, HORIZON + 1),
        "extra_observations": (30, 1, HORIZON + 1, 2),
        "extra_actions": (*extra, 2),
        "extra_rewards": extra,
    }


@pytest.mark.parametrize("early", [False, True])
def test_returns_are_the_sum_of_recorded_rewards(early: bool) -> None:
    rollout = play(ToyEnv(early=early), chunk=7, record=True)
    assert rollout.rewards is not None
    torch.testing.assert_close(rollout.agent_returns, rollout.rewards.double().sum(dim=2))
    torch.testing.assert_close(rollout.returns, rollout.agent_returns.mean(dim=1))
    assert rollout.returns.dtype == torch.float64
    assert rollout.steps == int(rollout.lengths.sum())


def test_finished_episodes_count_no_further() -> None:
    rollout = play(ToyEnv(early=True), record=True)
    assert torch.equal(rollout.lengths, 1 + SEEDS % HORIZON)
    assert rollout.rewards is not None
    assert rollout.observations is not None
    assert rollout.terminated is not None
    ended = torch.arange(HORIZON) >= rollout.lengths[:, None]
    assert not rollout.rewards.movedim(1, 2)[ended].any()
    assert not rollout.observations.movedim(1, 2)[:, 1:][ended].any()
    last = rollout.lengths[:, None, None, None].expand(-1, N_AGENTS, 1, OBSERVATION_DIM)
    assert rollout.observations.gather(2, last).norm(dim=-1).all(), "the row after the last step is a real one"
    assert torch.equal(rollout.terminated.nonzero()[:, 1] + 1, rollout.lengths)


def test_won_only_where_the_battle_was_won() -> None:
    rollout = play(ToyEnv(early=True, battle=True))
    assert rollout.won is not None
    assert torch.equal(rollout.won, (1 + SEEDS % HORIZON) % 3 == 0)
    assert 0 < rollout.won.sum() < len(SEEDS)


def test_recorded_actions_replay_the_episodes() -> None:
    env = ParticleEnv("spread")
    rollout = run_rollout(RandomWalk(), env, SEEDS, (0, "replay"), chunk=8, record=True)
    assert rollout.actions is not None
    assert rollout.observations is not None
    observations = [env.reset(SEEDS)]
    observations += [env.step(rollout.actions[:, :, t]).observations for t in range(env.spec.horizon)]
    assert torch.equal(torch.stack(observations, dim=2), rollout.observations)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_episodes", [1, 10, 30, 32])
def test_scores_do_not_depend_on_the_number_of_ranks(world_size: int, n_episodes: int) -> None:
    seeds, chunk = SEEDS.repeat(2)[:n_episodes], 4
    whole = play(ToyEnv(early=True), seeds, chunk=chunk)
    parts = []
    for rank in range(world_size):
        mine = split_episodes(n_episodes, chunk, rank, world_size)
        parts.append(play(ToyEnv(early=True), seeds[mine.start : mine.stop], chunk=chunk, first_episode=mine.start))
    assert torch.equal(torch.cat([part.agent_returns for part in parts]), whole.agent_returns)
    assert sum(part.steps for part in parts) == whole.steps


@pytest.mark.parametrize("n_episodes", [1, 5, 8, 11])
def test_fewer_episodes_are_the_first_of_many(n_episodes: int) -> None:
    many = play(ToyEnv(early=True), chunk=8)
    few = play(ToyEnv(early=True), SEEDS[:n_episodes], chunk=8)
    torch.testing.assert_close(few.agent_returns, many.agent_returns[:n_episodes], rtol=0, atol=1e-5)


def test_an_offset_inside_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="first_episode=6 is not a multiple of chunk=4"):
        play(ToyEnv(), first_episode=6, chunk=4)


def test_noise_follows_its_key_and_nothing_else() -> None:
    torch.manual_seed(0)
    first = play(ToyEnv())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert_same_episodes(first, play(ToyEnv()))
    assert torch.equal(torch.get_rng_state(), state)
    other = run_rollout(ToyPolicy(), ToyEnv(), SEEDS, (1, "test"))
    assert not torch.equal(first.agent_returns, other.agent_returns)


def test_policy_acts_in_evaluation_mode_and_gets_its_modes_back() -> None:
    policy = ToyPolicy()
    policy.train()
    policy.dropout.eval()
    seen = []
    policy.dropout.register_forward_hook(lambda *_: seen.append((policy.training, torch.is_grad_enabled())))
    run_rollout(policy, ToyEnv(), SEEDS, (0,))
    assert set(seen) == {(False, False)}
    assert (policy.training, policy.dropout.training) == (True, False)


def test_modes_come_back_when_the_environment_breaks() -> None:
    class Broken(ToyEnv):
        def step(self, actions: torch.Tensor):
            raise RuntimeError("broken")

    policy = ToyPolicy().train()
    with pytest.raises(RuntimeError, match="broken"):
        run_rollout(policy, Broken(), SEEDS, (0,))
    assert policy.training


def test_one_episode_is_drawn_from_beginning_to_end() -> None:
    rollout = play(ToyEnv(early=True), chunk=4, spectator=Spectator(draws=9))
    assert rollout.frames is not None
    assert len(rollout.frames) == 1 + int(rollout.lengths[9])
    assert play(ToyEnv()).frames is None


def test_progress_adds_up_to_all_episodes() -> None:
    ended: list[int] = []
    play(ToyEnv(), chunk=8, spectator=Spectator(hears=ended.append))
    assert ended == [8, 8, 8, 6]


def test_a_rank_without_episodes_has_an_empty_rollout() -> None:
    rollout = play(ToyEnv(), SEEDS[:0], record=True)
    assert rollout.returns.shape == (0,)
    assert rollout.agent_returns.shape == (0, N_AGENTS)
    assert rollout.steps == 0


def test_evaluation_seeds_are_disjoint_streams() -> None:
    selection, report = (evaluation_seeds(0, purpose, 1000) for purpose in ("selection", "report"))
    assert len(set(selection.tolist()) | set(report.tolist())) == 2000
    assert torch.equal(selection[:10], evaluation_seeds(0, "selection", 10))
    assert not torch.isin(selection, evaluation_seeds(1, "selection", 1000)).any()
    assert (selection >= 0).all()


class RandomWalk(DecentralizedPolicy):
    n_agents = 3

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> torch.Tensor:
        return 2 * torch.rand(n_episodes, self.n_agents, 2, generator=generator, device=generator.device) - 1

    def act_on_noise(self, observations, carry, legal, noise):
        return noise, None

    def export(self, agent: int):
        return RandomWalk()
