"""The differences between BC, MA-TD3+BC, MACQL, OMAR and MAICQ, and the data that none of them may learn from."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dof_lightning.algorithms.base import Algorithm
from dof_lightning.algorithms.macql import MACQL
from dof_lightning.algorithms.omar import OMAR
from dof_lightning.algorithms.parts.actor_critic import ActorCritic
from dof_lightning.algorithms.parts.losses import batch_weights
from dof_lightning.algorithms.parts.value_learning import Conservative
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from tests.fixtures.signal_world import HORIZON, SignalEnv, signal_batch, signal_spec
from tests.fixtures.synthetic import build_algorithm, random_batch, training_step

VALUED = ("td3_bc", "macql", "omar", "maicq")
FAST = ("algorithm.learning_rate=0.01", "algorithm.gradient_clip=null")
CRITIC = ("algorithm.critic_learning_rate=0.01", "algorithm.critic_gradient_clip=null")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses(algorithm: Algorithm, batch: EpisodeBatch) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in algorithm.losses(batch, generator()).items()}


def train(algorithm: Algorithm, batch: EpisodeBatch, steps: int) -> None:
    optimizer = algorithm.configure_optimizers()
    for step in range(steps):
        training_step(algorithm, optimizer, batch, step)


def one_step_batch(algorithm: Algorithm, size: int = 256) -> EpisodeBatch:
    """Uniform actions in episodes of one step; the best one is the first two numbers of the agent's observation."""
    batch = random_batch(algorithm.spec, algorithm.window, size)
    observations = batch.observations.clamp(-0.8, 0.8)
    shape = (size, algorithm.spec.n_agents, algorithm.window.length)
    ended = (torch.arange(shape[2]) == 0).expand(size, -1)
    return replace(
        batch,
        observations=observations,
        rewards=-worth_lost(observations[:, :, :-1], batch.actions),
        terminated=ended,
        truncated=torch.zeros_like(ended),
        transition_mask=ended[:, None].expand(shape).contiguous(),
    )


def worth_lost(observations: Tensor, actions: Tensor) -> Tensor:
    return (actions - observations[..., :2]).square().sum(-1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("td3_bc", ("algorithm.alpha=5",)),
        pytest.param("macql", ("algorithm.alpha=0.1",), marks=pytest.mark.slow),
        pytest.param("omar", ("algorithm.alpha=0.1",), marks=pytest.mark.slow),
        pytest.param("maicq", ("algorithm.actor_temperature=0.05",), marks=pytest.mark.slow),
    ],
)
def test_better_actions_than_the_data_are_learned(name: str, changes: tuple[str, ...]) -> None:
    algorithm = build_algorithm(f"algorithm={name}", *changes, *FAST, *CRITIC, "algorithm.reward_scale=1")
    batch = one_step_batch(algorithm, size=1024 if name == "maicq" else 256)  # it never rates other actions than these
    train(algorithm, batch, 300)
    fresh = one_step_batch(algorithm).observations[:, :, 0]
    policy = algorithm.policy()
    with torch.no_grad():
        actions, _ = policy.act_on_noise(fresh, None, None, policy.draw_noise(len(fresh), generator()))
    of_cloning = worth_lost(fresh, torch.zeros_like(actions)).mean()  # the mean of uniform actions
    assert worth_lost(fresh, actions).mean() < 0.5 * of_cloning


def test_cloning_learns_the_mean_action() -> None:
    algorithm = build_algorithm("algorithm=bc", *FAST)
    batch = one_step_batch(algorithm)
    told = replace(batch, actions=(batch.observations[:, :, :-1, :2] + 0.3 * batch.actions).clamp(-1, 1))
    train(algorithm, told, 300)
    policy = algorithm.policy()
    seen = batch.observations[:, :, 0]
    with torch.no_grad():
        actions, _ = policy.act_on_noise(seen, None, None, policy.draw_noise(len(seen), generator()))
    assert worth_lost(seen, actions).mean() < 0.05


def test_the_penalty_closes_the_gap_between_actions_of_the_data_and_others() -> None:
    gaps = {}
    for alpha in (0.0, 5.0):
        algorithm = build_algorithm("algorithm=macql", f"algorithm.alpha={alpha}", *FAST, *CRITIC)
        assert isinstance(algorithm, MACQL)
        assert isinstance(algorithm.value_learning, Conservative)
        batch = one_step_batch(algorithm)
        train(algorithm, batch, 100)
        now, data, weight = (
            algorithm.situation(batch, 0),
            batch.actions[:, :, 0],
            batch.transition_mask[:, :, 0].float(),
        )
        with torch.no_grad():
            gaps[alpha] = float(algorithm.value_learning.gap(algorithm.critic, now, data, weight, generator()))
    assert gaps[5.0] < gaps[0.0] - 0.5


def test_the_penalty_is_the_same_in_whatever_unit_rewards_are_seen() -> None:
    penalties, scale = [], 1 / 50
    for factor in (1.0, scale):
        algorithm = build_algorithm("algorithm=macql", "algorithm.alpha=2", f"algorithm.reward_scale={factor}")
        assert isinstance(algorithm, MACQL)
        batch = one_step_batch(algorithm)
        situation, data = algorithm.situation(batch, 0), batch.actions[:, :, 0]
        with torch.no_grad():
            before = algorithm.critic.online(situation, data)
            for parameter in list(algorithm.critic.online.parameters())[-2:]:  # of the last layer
                parameter.mul_(100 * factor)  # values that differ by much more than 1 between actions
            torch.testing.assert_close(algorithm.critic.online(situation, data), 100 * factor * before)
        penalties.append(losses(algorithm, batch)["loss/penalty"])
    torch.testing.assert_close(penalties[1] / scale**2, penalties[0])  # the squared TD error scales so, too


def test_the_search_finds_what_is_worth_at_least_as_much_and_mostly_more() -> None:
    algorithm = build_algorithm("algorithm=omar", *CRITIC)
    assert isinstance(algorithm, OMAR)
    batch = one_step_batch(algorithm)
    train(algorithm, batch, 100)
    now = algorithm.situation(batch, 0)
    own = torch.rand(batch.actions[:, :, 0].shape, generator=generator()) * 2 - 1
    found = algorithm.search(now, own, generator())
    before, after = (algorithm.critic.frozen_values(now, actions).detach() for actions in (own, found))
    assert bool((after >= before).all())
    assert (after > before).float().mean() > 0.9
    assert bool((found.abs() <= 1).all())


def test_weights_sum_to_the_rows_that_count_and_grow_with_their_values() -> None:
    values, counts = torch.randn(50, 3, generator=generator()), torch.rand(50, 3, generator=generator(1)) < 0.7
    counts[:, 2] = False
    weights = batch_weights(values, counts, temperature=0.5)
    torch.testing.assert_close(weights.sum(0), counts.sum(0).float())
    assert not bool(weights[~counts].any())
    mine, theirs = values[:, 0][counts[:, 0]], weights[:, 0][counts[:, 0]]
    assert torch.equal(mine.argsort(), theirs.argsort())
    torch.testing.assert_close(
        batch_weights(values, counts, 1e6)[counts], torch.ones(int(counts.sum())), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("name", ["bc", *VALUED])
def test_rows_that_are_not_real_and_dead_agents_change_nothing(name: str) -> None:
    algorithm = build_algorithm(f"algorithm={name}")
    batch = random_batch(algorithm.spec, algorithm.window)
    gone = torch.zeros(len(batch.t), algorithm.spec.n_agents, dtype=torch.bool)
    gone[::4] = True  # padding: all agents
    gone[1::4, 1] = True  # one is dead
    alive = ~gone[..., None].expand(-1, -1, algorithm.window.length + 1)
    masked = replace(batch, transition_mask=batch.transition_mask & alive[:, :, :-1], alive=alive)
    noise = 10 * torch.randn(batch.observations.shape, generator=generator())
    where = gone[..., None, None]
    of_team = isinstance(algorithm, ActorCritic) and algorithm.critic.online.of_team
    unpaid = gone.all(1, keepdim=True).expand_as(gone) if of_team else gone  # a team's reward is a mean over all
    changed = replace(
        masked,
        observations=torch.where(where, noise, batch.observations),
        rewards=torch.where(unpaid[..., None], 7.0, batch.rewards),
        actions=torch.where(where, -batch.actions, batch.actions),
    )
    ours, theirs = losses(algorithm, masked), losses(algorithm, changed)
    learned = {tag for tag in ours if not tag.startswith("q/")}  # means over everything there is, for curves only
    torch.testing.assert_close({tag: ours[tag] for tag in learned}, {tag: theirs[tag] for tag in learned})


@pytest.mark.parametrize("name", VALUED)
def test_a_time_limit_is_no_end(name: str) -> None:
    algorithm = build_algorithm(f"algorithm={name}")
    batch = random_batch(algorithm.spec, algorithm.window)
    changed = replace(batch, observations=batch.observations.clone())
    changed.observations[:, :, 1] += 3.0
    for ended in (False, True):
        rows = torch.zeros_like(batch.terminated)
        rows[:, 0] = ended
        ours, theirs = (losses(algorithm, replace(b, terminated=rows))["loss/critic"] for b in (batch, changed))
        assert torch.equal(ours, theirs) == ended


def test_the_last_step_before_a_time_limit_teaches_implicit_values_nothing() -> None:
    algorithm = build_algorithm("algorithm=maicq")
    batch = random_batch(algorithm.spec, algorithm.window)
    last = batch.transition_mask.clone()
    last[::2, :, 1] = False  # nothing was done in the next row
    batch = replace(batch, transition_mask=last, terminated=torch.zeros_like(batch.terminated))
    richer = replace(batch, rewards=batch.rewards + 5.0 * ~last[:, :, 1:].expand_as(batch.rewards))
    assert torch.equal(losses(algorithm, batch)["loss/critic"], losses(algorithm, richer)["loss/critic"])
    ended = torch.zeros_like(batch.terminated)
    ended[::2, 0] = True
    ours, theirs = (losses(algorithm, replace(b, terminated=ended))["loss/critic"] for b in (batch, richer))
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("td3_bc", "alpha=-1"),
        ("macql", "samples=0"),
        ("omar", "search_weight=1.5"),
        ("maicq", "actor_temperature=0"),
        ("bc", "ema_decay=1"),
        ("bc", "learning_rate=0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.{value.partition('=')[0]}="):
        build_algorithm(f"algorithm={name}", f"algorithm.{value}")


@pytest.mark.parametrize("name", ["bc", *VALUED])
def test_agents_with_networks_of_their_own_act_alone_only(name: str) -> None:
    with pytest.raises(UserError, match="execution=decentralized"):
        build_algorithm(f"algorithm={name}", "execution=centralized")


@pytest.mark.parametrize("name", VALUED)
def test_choices_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="continuous actions"):
        build_algorithm(f"algorithm={name}", spec=signal_spec())


def test_cloned_choices_are_legal_and_the_datas() -> None:
    algorithm = build_algorithm("algorithm=bc", *FAST, "algorithm.sequence_length=1", spec=signal_spec())
    train(algorithm, signal_batch(512, seed=0, share_best=0.8), 150)
    rollout = run_rollout(algorithm.policy(), SignalEnv(), evaluation_seeds(0, "report", 64), (0, "report"))
    assert rollout.returns.mean() > 0.95 * HORIZON
