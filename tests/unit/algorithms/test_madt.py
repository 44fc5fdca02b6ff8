"""MADT: it looks back only, does what it is asked for, and acts as it was trained."""

from dataclasses import replace

import pytest
import torch

from dof_lightning.actors.sequence import SequenceActor
from dof_lightning.algorithms.madt import MADT
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.networks.causal_transformer import CausalTransformer
from dof_lightning.rollout.certificate import certify
from tests.fixtures.signal_world import SignalEnv, signal_batch, signal_spec
from tests.fixtures.small_spec import small_spec
from tests.fixtures.synthetic import build_algorithm, random_batch, training_step

ROWS = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> CausalTransformer:
    return CausalTransformer(signal_spec(), condition_dim=4, rows=ROWS, width=16, dropout=0.0).eval()


def inputs() -> dict[str, torch.Tensor]:
    return {
        "returns": torch.randn(6, 3, ROWS, generator=generator()),
        "seen": torch.randn(6, 3, ROWS, 4, generator=generator(1)),
        "actions": torch.randint(2, (6, 3, ROWS), generator=generator(2)),
    }


def small_madt(*overrides: str, rows: int = ROWS) -> MADT:
    algorithm = build_algorithm(
        "algorithm=madt",
        f"algorithm.sequence_length={rows}",
        "algorithm.network.dropout=0",
        *overrides,
        spec=signal_spec(),
    )
    assert isinstance(algorithm, MADT)
    return algorithm


@pytest.mark.parametrize("what", ["returns", "seen", "actions"])
@pytest.mark.parametrize("row", range(ROWS))
def test_what_is_said_of_a_row_depends_on_nothing_later(what: str, row: int) -> None:
    reader, before, after = network(), inputs(), inputs()
    after[what][:, :, row] = 1 - after[what][:, :, row]
    with torch.no_grad():
        changed = (reader(**before) != reader(**after)).any(-1).flatten(0, 1).any(0)
    first = row + (what == "actions")  # an action is what a row is asked about
    assert changed.tolist() == [t >= first for t in range(ROWS)]


def test_agents_are_told_apart_and_do_not_meet() -> None:
    # Copies: an expanded view may be multiplied by another kernel, which rounds otherwise.
    reader, same = network(), {name: value[:, :1].expand_as(value).clone() for name, value in inputs().items()}
    with torch.no_grad():
        said = reader(**same)
        assert not torch.equal(said[:, 0], said[:, 1])
        other = {name: value.clone() for name, value in same.items()}
        other["seen"][:, 1] += 1.0
        assert torch.equal(reader(**other)[:, 0], said[:, 0])


@pytest.mark.parametrize("update", ["none", "reward"])
def test_acting_row_by_row_is_reading_the_last_rows_at_once(update: str) -> None:
    algorithm = small_madt(f"algorithm.return_update={update}")
    policy = algorithm.policy()
    steps = ROWS + 3
    seen = torch.randn(6, 3, steps, 4, generator=generator())
    rewards = torch.randn(6, 3, steps, generator=generator(1))
    carry, choices = policy.begin(6, torch.device("cpu"), None), []
    targets = []
    with torch.no_grad():
        for t in range(steps):
            targets.append(carry["target"])
            choice, carry = policy.act_on_noise(seen[:, :, t], carry, None, policy.draw_noise(6, generator()))
            carry = policy.observe_rewards(carry, rewards[:, :, t])
            choices.append(choice)
        returns, actions = torch.stack(targets, -1), torch.stack(choices, -1)
        for t in range(steps):
            rows = slice(max(0, t + 1 - ROWS), t + 1)
            normalized = algorithm.normalizer.normalize(seen[:, :, rows])
            logits = algorithm.average_network(returns[:, :, rows], normalized, actions[:, :, rows])
            expected = logits[:, :, -1].masked_fill(~algorithm.action_mask, -torch.inf).argmax(-1)
            assert torch.equal(actions[:, :, t], expected)
    assert bool((returns != returns[..., :1]).any()) == (update == "reward")


def choosing_batch(asked_for: float | None = None) -> EpisodeBatch:
    """Half of the decisions are the best ones, and earn 1; where nothing is `asked_for`, returns say which."""
    batch = signal_batch(256, seed=0, share_best=0.5)
    returns = batch.rewards if asked_for is None else torch.full_like(batch.rewards, asked_for)
    return replace(batch, return_to_go=returns)


def test_more_is_done_where_more_is_asked_for() -> None:
    algorithm = small_madt("algorithm.learning_rate=0.01", "algorithm.network.width=32", rows=1)
    optimizer, batch = algorithm.configure_optimizers(), choosing_batch()
    for step in range(150):
        training_step(algorithm, optimizer, batch, step)
    earned = {}
    for target in (0.0, 1.0):
        algorithm.target_return = target / algorithm.returns_scale
        policy = algorithm.policy()
        with torch.no_grad():
            choices, _ = policy.act_on_noise(
                batch.observations[:, :, 0],
                policy.begin(256, torch.device("cpu"), None),
                batch.legal[:, :, 0],
                policy.draw_noise(256, generator()),
            )
        best = signal_batch(256, seed=0, share_best=1.0).actions[:, :, 0]
        earned[target] = float((choices == best).float().mean())
    assert earned[1.0] > 0.9
    assert earned[0.0] < 0.5


def test_rows_behind_the_end_teach_nothing() -> None:
    algorithm = small_madt()
    batch = random_batch(algorithm.spec, algorithm.window)
    real = batch.transition_mask & (torch.arange(ROWS) < 3)
    batch = replace(batch, transition_mask=real)
    noise = 10 * torch.randn(batch.observations.shape, generator=generator())
    behind = (torch.arange(ROWS + 1) >= 3)[:, None]
    changed = replace(
        batch,
        observations=torch.where(behind, noise, batch.observations),
        actions=torch.where(real, batch.actions, 0),
        return_to_go=torch.where(real, batch.return_to_go, 7.0),
    )
    ours, theirs = (algorithm.losses(b, generator())["loss"].detach() for b in (batch, changed))
    torch.testing.assert_close(ours, theirs)


def test_dropout_is_a_function_of_the_generator_and_leaves_the_global_stream_alone() -> None:
    algorithm = small_madt("algorithm.network.dropout=0.5")
    batch = random_batch(algorithm.spec, algorithm.window)
    state = torch.random.get_rng_state()
    first, again, other = (algorithm.losses(batch, generator(seed))["loss"].detach() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_told_rewards_says_so() -> None:
    policy = small_madt("algorithm.return_update=reward").policy()
    assert isinstance(policy, SequenceActor)
    certificate = certify(policy, SignalEnv(), seed=0, n_episodes=4)
    assert certificate.passed
    assert certificate.observes_rewards


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="discrete actions"):
        build_algorithm("algorithm=madt", spec=small_spec())
    with pytest.raises(UserError, match="multiple of heads"):
        build_algorithm("algorithm=madt", "algorithm.network.width=9")
