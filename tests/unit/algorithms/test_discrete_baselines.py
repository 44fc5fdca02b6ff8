"""The differences between QMIX, MACQL, MABCQ and MAICQ on discrete actions, and the data none may learn from."""

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.actors.direct import likely
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.algorithms.mabcq import MABCQ
from dof_lightning.algorithms.macql_discrete import DiscreteMACQL
from dof_lightning.algorithms.maicq_discrete import DiscreteMAICQ
from dof_lightning.algorithms.parts.sequences import Sequences
from dof_lightning.algorithms.qmix import QMIX
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.recurrent import RecurrentNetwork
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from tests.fixtures.signal_world import SignalEnv, signal_batch, signal_spec
from tests.fixtures.small_spec import small_spec
from tests.fixtures.synthetic import build_algorithm, random_batch, training_step

VALUED = ("qmix", "macql_discrete", "mabcq", "maicq_discrete")
FAST = ("algorithm.learning_rate=0.01", "algorithm.sequence_length=1")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses(algorithm: Algorithm, batch: EpisodeBatch) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in algorithm.losses(batch, generator()).items()}


def train(algorithm: Algorithm, batch: EpisodeBatch, steps: int) -> None:
    optimizer = algorithm.configure_optimizers()
    for step in range(steps):
        training_step(algorithm, optimizer, batch, step)


def with_masks(batch: EpisodeBatch, gone: Tensor) -> EpisodeBatch:
    """Masks a batch; `gone` is `[B, N, T + 1]`: agents that are dead, or rows behind an episode's end where all are."""
    there = ~gone[:, :, :-1] & ~gone[:, :, 1:]
    return replace(batch, transition_mask=there, alive=~gone)


@pytest.mark.parametrize("name", [*VALUED, "bc"])
def test_the_best_choices_are_learned_and_none_is_illegal(name: str) -> None:
    few = ("algorithm.samples=4",) if name == "macql_discrete" else ()
    algorithm = build_algorithm(f"algorithm={name}", *FAST, *few, spec=signal_spec())
    train(algorithm, signal_batch(512, seed=0, share_best=0.5), 200)
    policy, fresh = algorithm.policy(), signal_batch(64, seed=1, share_best=1.0)
    noise = policy.draw_noise(64, generator())
    with torch.no_grad():  # with an empty memory, as single decisions have it
        choices, _ = policy.act_on_noise(
            fresh.observations[:, :, 0], policy.begin(64, torch.device("cpu"), None), fresh.legal[:, :, 0], noise
        )
    assert (choices == fresh.actions[:, :, 0]).float().mean() > 0.9
    run_rollout(policy, SignalEnv(), evaluation_seeds(0, "report", 64), (0, "report"))  # raises where illegal


def test_the_teams_best_joint_choice_is_everyones_best_own() -> None:
    algorithm = build_algorithm("algorithm=qmix")
    assert isinstance(algorithm, QMIX)
    values = torch.randn(20, 3, 4, generator=generator()).requires_grad_()
    state = torch.randn(20, 12, generator=generator(1))
    joint = list(itertools.product(range(4), repeat=3))
    mixed = torch.stack(
        [algorithm.mixer(values[:, torch.arange(3), torch.tensor(u)][..., None], state)[:, 0] for u in joint], dim=1
    )
    assert torch.equal(torch.tensor(joint)[mixed.argmax(1)], values.argmax(-1))
    (slope,) = torch.autograd.grad(mixed.sum(), values)
    assert bool((slope >= 0).all())
    assert bool((slope > 0).any())


def test_the_penalty_closes_the_gap_between_joint_choices_of_the_data_and_others() -> None:
    gaps = {}
    for alpha in (0.0, 3.0):
        algorithm = build_algorithm("algorithm=macql_discrete", f"algorithm.alpha={alpha}", *FAST, spec=signal_spec())
        assert isinstance(algorithm, DiscreteMACQL)
        batch = signal_batch(128, seed=0, share_best=0.9)
        train(algorithm, batch, 60)
        algorithm.settings = replace(algorithm.settings, alpha=1.0)
        gaps[alpha] = float(losses(algorithm, batch)["loss/penalty"])
    assert 0 < gaps[3.0] < gaps[0.0] - 0.5


class InUnit(ValueMixer):
    """Another mixer's Q_tot for rewards that are `factor` times as large."""

    satisfies_igm = True

    def __init__(self, mixer: ValueMixer, factor: float) -> None:
        super().__init__()
        self.mixer, self.factor = mixer, factor

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        mixed: Tensor = self.factor * self.mixer(values, state)
        return mixed


def test_the_penalty_is_the_same_in_whatever_unit_rewards_are_seen() -> None:
    penalties, scale = [], 1 / 50
    for factor in (1.0, scale):
        algorithm = build_algorithm("algorithm=macql_discrete", f"algorithm.reward_scale={factor}")
        assert isinstance(algorithm, DiscreteMACQL)
        algorithm.mixer = InUnit(algorithm.mixer, 100 * factor)  # values that differ by much more than 1
        penalties.append(losses(algorithm, random_batch(algorithm.spec, algorithm.window))["loss/penalty"])
    torch.testing.assert_close(penalties[1] / scale**2, penalties[0], rtol=1e-4, atol=0)  # as a squared TD error


def test_only_choices_that_are_likely_enough_are_kept() -> None:
    logits = torch.tensor([0.5, 0.3, 0.19, 0.01]).log()[None]
    everything = torch.ones(1, 4, dtype=torch.bool)
    assert likely(logits, everything, 0.4).tolist() == [[True, True, False, False]]
    assert likely(logits, everything, 0.0).tolist() == [[True] * 4]
    assert likely(logits, everything, 1.0).tolist() == [[True, False, False, False]]
    legal = torch.tensor([[False, False, True, True]])
    assert likely(logits, legal, 0.4).tolist() == [[False, False, True, False]], "relative to the likeliest legal one"
    assert likely(logits, ~everything, 0.4).tolist() == [[False] * 4]


def test_an_unlikely_choice_is_neither_taken_nor_aimed_at_however_much_it_is_worth() -> None:
    algorithm = build_algorithm("algorithm=mabcq", "algorithm.sequence_length=2")
    assert isinstance(algorithm, MABCQ)
    prefer(algorithm.average_cloning, choice=0, by=5.0)
    for network in (algorithm.values, algorithm.average_values):
        prefer(network, choice=1, by=100.0)
    batch = random_batch(algorithm.spec, algorithm.window)
    legal = torch.ones_like(batch.legal) & algorithm.action_mask[:, None]
    batch = replace(batch, legal=legal)
    policy = algorithm.policy()
    carry = policy.begin(len(batch.t), torch.device("cpu"), None)
    noise = policy.draw_noise(len(batch.t), generator())
    with torch.no_grad():
        choice, _ = policy.act_on_noise(batch.observations[:, :, 0], carry, legal[:, :, 0], noise)
    assert not bool(choice.any())
    assert float(losses(algorithm, batch)["q/target"]) < 10
    algorithm.settings = replace(algorithm.settings, threshold=0.0)
    assert float(losses(algorithm, batch)["q/target"]) > 10


def prefer(network: RecurrentNetwork, choice: int, by: float) -> None:
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.zero_()
        network.last.bias[choice] = by


def test_implicit_values_never_look_at_choices_that_the_data_do_not_have() -> None:
    algorithm = build_algorithm("algorithm=maicq_discrete", "algorithm.sequence_length=4")
    assert isinstance(algorithm, DiscreteMAICQ)
    batch = random_batch(algorithm.spec, algorithm.window)
    batch = replace(batch, actions=torch.zeros_like(batch.actions), legal=torch.ones_like(batch.legal))
    before = losses(algorithm, batch)["loss/critic"]
    with torch.no_grad():
        for network in (algorithm.values, algorithm.average_values):
            network.last.bias[1:] += 100.0
    assert torch.equal(losses(algorithm, batch)["loss/critic"], before)


@pytest.mark.parametrize("name", [*VALUED, "bc"])
def test_dead_agents_and_rows_behind_the_end_change_nothing(name: str) -> None:
    algorithm = build_algorithm(f"algorithm={name}", "algorithm.sequence_length=4", spec=signal_spec())
    batch = random_batch(algorithm.spec, algorithm.window)
    gone = torch.zeros(batch.observations.shape[:3], dtype=torch.bool)
    gone[::4, :, 2:] = True  # the episode has ended
    gone[1::4, 1, 3:] = True  # one has died
    ended = batch.terminated.clone()
    ended[::4] = torch.arange(4) == 1
    batch = replace(with_masks(batch, gone), terminated=ended)
    noise = 10 * torch.randn(batch.observations.shape, generator=generator())
    behind = gone[:, :, :-1].all(1)[:, None].expand_as(batch.rewards)
    changed = replace(
        batch,
        observations=torch.where(gone[..., None], noise, batch.observations),
        actions=torch.where(gone[:, :, :-1], 0, batch.actions),
        rewards=torch.where(behind, 7.0, batch.rewards),
    )
    torch.testing.assert_close(losses(algorithm, batch), losses(algorithm, changed))


@pytest.mark.parametrize("name", VALUED)
def test_values_that_people_are_told_are_means_over_real_rows(name: str) -> None:
    algorithm = build_algorithm(f"algorithm={name}", "algorithm.sequence_length=4", spec=signal_spec())
    batch = random_batch(algorithm.spec, algorithm.window)
    gone = torch.zeros(batch.observations.shape[:3], dtype=torch.bool)
    gone[::2] = True
    batch = with_masks(batch, gone)
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    real = replace(batch, **{name: value[1::2] for name, value in tensors.items() if isinstance(value, Tensor)})
    for told in ("q/value", "q/target"):
        torch.testing.assert_close(losses(algorithm, batch)[told], losses(algorithm, real)[told])


@pytest.mark.parametrize("name", VALUED)
def test_a_time_limit_is_no_end(name: str) -> None:
    algorithm = build_algorithm(f"algorithm={name}", "algorithm.sequence_length=2")
    batch = random_batch(algorithm.spec, algorithm.window)
    changed = replace(batch, observations=batch.observations.clone())
    changed.observations[:, :, 1:] += 3.0
    for ended in (False, True):
        rows = torch.zeros_like(batch.terminated)
        rows[:, 0] = ended
        only_first = batch.transition_mask & (torch.arange(2) == 0) if ended else batch.transition_mask
        told: dict[str, Any] = {"terminated": rows, "transition_mask": only_first}
        ours, theirs = (losses(algorithm, replace(b, **told))["loss/critic"] for b in (batch, changed))
        assert torch.equal(ours, theirs) == ended


@pytest.mark.parametrize("name", VALUED)
def test_the_global_state_is_what_mixers_are_told_where_there_is_one(name: str) -> None:
    spec = small_spec(action_dims=(4, 4, 4), action_kind="discrete", state_dim=5)
    algorithm = build_algorithm(f"algorithm={name}", "algorithm.sequence_length=2", spec=spec)
    batch = random_batch(signal_spec(), algorithm.window)
    ours, theirs = (torch.randn(64, 3, 5, generator=generator(seed)) for seed in (0, 1))
    one, other = (losses(algorithm, replace(batch, state=state))["loss/critic"] for state in (ours, theirs))
    assert not torch.equal(one, other)
    assert Sequences.of(replace(batch, state=ours), algorithm.normalizer, algorithm.action_mask).state is ours


def test_a_memory_read_row_by_row_is_a_memory_read_at_once() -> None:
    network = RecurrentNetwork(signal_spec(), condition_dim=4, hidden=8)
    seen = torch.randn(5, 3, 6, 4, generator=generator())
    with torch.no_grad():
        together, after = network(seen)
        memory, rows = None, []
        for t in range(6):
            row, memory = network(seen[:, :, t : t + 1], memory)
            rows.append(row)
    torch.testing.assert_close(torch.cat(rows, 2), together)
    torch.testing.assert_close(memory, after)


def test_a_memory_is_what_torch_calls_a_gru() -> None:
    network = RecurrentNetwork(signal_spec(), condition_dim=4, hidden=8)
    oracle = torch.nn.GRU(8, 8, batch_first=True)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    own = (network.input_weight, network.memory_weight, network.input_bias, network.memory_bias)
    oracle.load_state_dict({name: value.detach() for name, value in zip(names, own, strict=True)})
    seen = torch.randn(5, 3, 6, 4, generator=generator())
    with torch.no_grad():
        told = torch.cat([seen, torch.eye(3)[:, None].expand(5, 3, 6, 3)], dim=-1)
        remembered, _ = oracle(torch.relu(network.first(told)).flatten(0, 1))
        expected = network.last(torch.relu(remembered)).reshape(5, 3, 6, 4)
        torch.testing.assert_close(network(seen)[0], expected)


@pytest.mark.parametrize("name", VALUED)
def test_continuous_actions_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="discrete actions"):
        build_algorithm(f"algorithm={name}", spec=small_spec())


@pytest.mark.parametrize(("name", "value"), [("mabcq", "threshold=1.5"), ("qmix", "sequence_length=0")])
def test_values_out_of_range_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.{value.partition('=')[0]}="):
        build_algorithm(f"algorithm={name}", f"algorithm.{value}")
