"""The decentralisation certificate: the policies that pass, its cost with many agents, and its report."""

from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from dof_lightning.console import acts_alone
from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv
from dof_lightning.rollout.certificate import MOST_PAIRS, Certificate, certify, choose_pairs
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from dof_lightning.spec import AgentSpec, EnvSpec
from tests.fixtures.toy_world import HORIZON, Peek, ToyEnv, ToyPolicy
from tests.unit.rollout.test_rollout import RandomWalk

SEEDS = evaluation_seeds(3, "selection", 30)


def test_certificate_passes_for_agents_that_act_alone() -> None:
    for env in (ToyEnv(), ToyEnv(early=True, battle=True)):
        certificate = certify(ToyPolicy(), env, seed=0)
        assert certificate.passed
        assert certificate.max_abs_delta == 0.0


@pytest.mark.parametrize("peek", ["observation", "noise", "past"])
def test_certificate_fails_for_agents_that_peek(peek: Peek) -> None:
    certificate = certify(ToyPolicy(peek), ToyEnv(), seed=0)
    assert not certificate.passed
    assert certificate.max_abs_delta > 0.0


def test_certificate_fails_for_agents_that_peek_late() -> None:
    class Late(ToyPolicy):
        """Looks at a teammate in an episode's last step only; the last observed number is the time."""

        def act_on_noise(self, observations, carry, legal, noise):
            actions, carry = super().act_on_noise(observations, carry, legal, noise)
            is_last = observations[..., 3:] >= (HORIZON - 1) / HORIZON
            return actions + 0.01 * is_last * observations.roll(1, dims=1)[..., :2], carry

    assert not certify(Late(), ToyEnv(), seed=0).passed


def test_certificate_fails_for_legal_actions_of_others() -> None:
    class PeeksAtLegal(RandomWalk):
        def act_on_noise(self, observations, carry, legal, noise):
            return noise * legal.roll(1, dims=1).float(), None

    class Restricted(ToyEnv):
        @property
        def legal(self) -> torch.Tensor:
            return self.positions > 0

    for episodes in (1, 16):  # of one episode there is no other's mask to show
        assert not certify(PeeksAtLegal(), Restricted(battle=True), seed=0, n_episodes=episodes).passed
    assert certify(ToyPolicy(), Restricted(battle=True), seed=0).passed


@pytest.mark.parametrize("whose", ["own", "teammates"])
def test_rewards_may_be_told_to_their_agent_only_and_the_certificate_says_so(whose: str) -> None:
    class Told(ToyPolicy):
        observes_rewards = True

        def observe_rewards(self, carry, rewards):
            rewards = rewards if whose == "own" else rewards.mean(1, keepdim=True)
            return {"last": carry["last"] + rewards[..., None]}

    certificate = certify(Told(), ToyEnv(), seed=0)
    assert certificate.passed == (whose == "own")
    assert certificate.observes_rewards
    heard, deaf = (run_rollout(policy, ToyEnv(), SEEDS, (0, "test")) for policy in (Told(), ToyPolicy()))
    assert not torch.equal(heard.returns, deaf.returns)


def test_certificate_fails_for_a_policy_that_is_not_finite() -> None:
    policy = ToyPolicy()
    torch.nn.init.constant_(policy.weight, float("nan"))
    assert not certify(policy, ToyEnv(), seed=0).passed


def test_certificate_holds_for_one_episode() -> None:
    assert certify(ToyPolicy(), ToyEnv(), seed=0, n_episodes=1).passed
    assert not certify(ToyPolicy("observation"), ToyEnv(), seed=0, n_episodes=1).passed


@pytest.mark.parametrize(("n_episodes", "n_agents"), [(16, 3), (16, 8), (1, 3), (4, 32)])
def test_all_pairs_are_tried_where_they_are_few(n_episodes: int, n_agents: int) -> None:
    own = choose_pairs(n_episodes, n_agents, MOST_PAIRS)
    assert torch.equal(own, torch.eye(n_agents, dtype=torch.bool).repeat_interleave(n_episodes, dim=0))


@pytest.mark.parametrize(("n_episodes", "n_agents"), [(16, 30), (16, 9), (1, 300), (4, 300), (200, 3), (16, 500)])
def test_of_many_pairs_some_are_sampled_and_every_agent_comes_up(n_episodes: int, n_agents: int) -> None:
    own = choose_pairs(n_episodes, n_agents, MOST_PAIRS)
    assert len(own) <= max(MOST_PAIRS, n_agents + n_episodes)
    assert bool((own.sum(1) == 1).all())
    assert bool(own.any(0).all())
    pairs = list(zip((torch.arange(len(own)) % n_episodes).tolist(), own.long().argmax(1).tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


class Crowd(VectorEnv):
    """Thirty agents that see where they stand and that nothing moves."""

    spec = EnvSpec("crowd", tuple(AgentSpec(f"agent_{i}", 2, 2) for i in range(30)), "continuous", 4, 0, {})

    def reset(self, seeds: Tensor) -> Tensor:
        self._time = 0
        self._seen = (seeds[:, None, None] % 97 + torch.arange(60).view(30, 2)).sin()
        return self._seen

    def step(self, actions: Tensor) -> StepResult:
        self._time += 1
        over = torch.full((len(actions),), self._time == 4)
        return StepResult(self._seen, actions.sum(-1), torch.zeros_like(over), over, StepInfo())

    def render(self, index: int) -> NoReturn:
        raise NotImplementedError


class Member(RandomWalk):
    """One of thirty; agent 17 may look at agent 3."""

    n_agents = 30

    def __init__(self, peeks: bool) -> None:
        super().__init__()
        self.peeks, self.asked = peeks, []

    def act_on_noise(self, observations, carry, legal, noise):
        self.asked.append(len(observations))
        seen = observations.clone()
        if self.peeks:
            seen[:, 17] += 1e-3 * observations[:, 3]
        return (seen[..., :2] + noise).tanh(), None


def test_a_crowd_is_certified_at_a_bounded_cost_that_is_said() -> None:
    alone = Member(peeks=False)
    certificate = certify(alone, Crowd(), seed=0)
    assert acts_alone({"certificate": certificate.to_dict()}) == "certified, 128 of 480 pairs tried"
    assert certificate.to_dict() == {"passed": True, "max_abs_delta": 0.0, "pairs": 128, "all_pairs": 480}
    assert max(alone.asked) == MOST_PAIRS
    assert not certify(Member(peeks=True), Crowd(), seed=0).passed
    assert not certify(Member(peeks=True), Crowd(), seed=0, n_episodes=4, most_pairs=32).passed


def test_nothing_is_lived_through_after_the_last_episode_has_ended() -> None:
    class Short(ToyEnv):
        def reset(self, seeds: Tensor) -> Tensor:
            return super().reset(torch.zeros_like(seeds))  # one step long

    policy = Member(peeks=False)
    policy.n_agents = 3
    certify(policy, Short(early=True), seed=0)
    assert len(policy.asked) == 3, "one decision played, and one in each life"
    assert HORIZON > 1


def test_progress_adds_up_to_one() -> None:
    shares: list[float] = []
    hears: Callable[[float], None] = shares.append
    certify(ToyPolicy(), ToyEnv(), seed=0, hears=hears)
    assert len(shares) == 2 * HORIZON
    assert sum(shares) == pytest.approx(1)


def test_what_is_usual_is_not_said() -> None:
    assert Certificate(True, 0.0, pairs=48, all_pairs=48).to_dict() == {"passed": True, "max_abs_delta": 0.0}
