"""A shared seed of a whole episode: its windows share it, habits are told apart, and runs go on exactly."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.critics import Situation
from dof_lightning.algorithms.parts.episode_seed import ROWS, EpisodeRows, EpisodeSeedAssignment, rows_of_episodes
from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization import value
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.xor_models import small_xor_model

EPISODES, STEPS, HABITS, LANDMARKS = 64, 5, 4, 3
SIDES = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])  # where a habit's two agents go


def episode_model(weights_seed: int = 0) -> DoFPolicy:
    return small_xor_model(weights_seed, shared_seeds=HABITS, shared_seed_of="episode")


def windows_of_habits(model: DoFPolicy, draw: torch.Generator, size: int = 128) -> EpisodeBatch:
    """Windows of episodes of five steps, episode e with habit e mod 4: no observation says which."""
    fixed = generator(7)
    seen = torch.randn(EPISODES, 2, STEPS + 1, 1, generator=fixed)
    habit = SIDES[torch.arange(EPISODES) % HABITS][:, :, None, None]
    noise = torch.randn(EPISODES, 2, STEPS, 1, generator=fixed)
    actions = 0.6 * habit + 0.3 * seen[:, :, :STEPS].tanh() + 0.05 * noise
    ids, t = (torch.randint(end, (size,), generator=draw) for end in (EPISODES, STEPS))
    row = t[:, None] + torch.arange(-model.window.history, model.window.horizon + 1)
    batch = small_batch(model.spec, size=size, rows=model.window.length)
    return replace(
        batch,
        observations=seen.movedim(1, 2)[ids[:, None], row.clamp(0, STEPS)].movedim(2, 1),
        actions=actions.movedim(1, 2)[ids[:, None], row[:, :-1].clamp(0, STEPS - 1)].movedim(2, 1),
        valid=(row >= 0) & (row <= STEPS),
        terminated=torch.zeros(size, model.window.length, dtype=torch.bool),
        episode_id=ids,
        t=t,
        history=model.window.history,
    )


def train(model: DoFPolicy, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        batch = windows_of_habits(model, generator(step))
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        optimizer.step()
        model.after_step()


def seeds_of(model: DoFPolicy, batch: EpisodeBatch, draw: int) -> Tensor:
    assigned = model.diffused(batch, generator(draw)).condition
    return model.settings.seeds.told(assigned)


@pytest.mark.parametrize("weights_seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_habits_are_told_apart_and_all_windows_of_an_episode_share_the_seed(weights_seed: int) -> None:
    model = episode_model(weights_seed)
    train(model, model.configure_optimizers(), 0, 80)
    batch = windows_of_habits(model, generator(1000), size=512)
    seed = seeds_of(model, batch, 0)
    together = torch.zeros(HABITS, HABITS)
    together.index_put_((batch.episode_id % HABITS, seed), torch.ones(()), accumulate=True)
    assert len(together.argmax(1).unique()) == HABITS
    assert float(together.amax(1).sum()) > 0.95 * 512
    assert float((seed == seeds_of(model, batch, 1)).float().mean()) > 0.95
    assert float(model.losses(batch, generator())["shared_seed/gain"]) > 0.5


@pytest.mark.parametrize("weights_seed", [0, 1])
def test_a_seed_stands_for_a_team_and_not_for_another_team_from_each_start(weights_seed: int) -> None:
    """Team z goes to landmark z; "to the left one of two" divides episodes nearly as well, but by the start."""
    draw = generator(weights_seed)
    torch.manual_seed(weights_seed)
    assignment = EpisodeSeedAssignment(LANDMARKS, small_spec((2, 2), 2 * LANDMARKS))
    optimizer = torch.optim.Adam(assignment.parameters(), assignment.parameter_group().learning_rate)
    for _ in range(300):
        rows, team = rows_of_landmarks(draw)
        optimizer.zero_grad()
        assigned = assignment(rows, draw)
        assigned.losses["loss/shared_seed"].backward()
        optimizer.step()
    assert assigned.shared_seed is not None
    together = torch.zeros(LANDMARKS, LANDMARKS)
    together.index_put_((team, assigned.shared_seed[:, 0]), torch.ones(()), accumulate=True)
    assert float(together.amax(1).sum()) > 0.88 * len(team)


def rows_of_landmarks(draw: torch.Generator, size: int = 256) -> tuple[EpisodeRows, Tensor]:
    """Rows of episodes whose two agents see where the landmarks are, and the landmark that both go to."""
    landmarks = torch.randn(size, 1, 1, LANDMARKS, 2, generator=draw).expand(-1, 2, ROWS, -1, -1)
    team = torch.randint(LANDMARKS, (size,), generator=draw)
    actions = landmarks[torch.arange(size), :, :, team]
    actions = actions + 0.1 * torch.randn(actions.shape, generator=draw)
    return EpisodeRows(landmarks.flatten(-2), actions, torch.ones(size, 2, ROWS, dtype=torch.bool)), team


def test_rows_are_spread_over_the_whole_episode_and_none_is_outside_of_it() -> None:
    model = episode_model()
    batch = windows_of_habits(model, generator())
    rows = rows_of_episodes(batch, generator(1))
    step = batch.t[:, None] + rows - batch.history
    assert rows.shape == (128, ROWS)
    assert set(step.unique().tolist()) == set(range(STEPS))
    assert bool((step.amin(1) == 0).all())
    assert bool((step.amax(1) == STEPS - 1).all())


def test_a_resumed_run_goes_on_exactly() -> None:
    model, resumed = episode_model(), episode_model(weights_seed=1)
    optimizer = model.configure_optimizers()
    train(model, optimizer, 0, 3)
    resumed.load_state_dict(model.state_dict())
    again = resumed.configure_optimizers()
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 3, 6)
    train(resumed, again, 3, 6)
    assert any("episode_seed" in name for name in model.state_dict())
    for one, other in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("changes", [{}, {"value_learning": "implicit"}], ids=str)
def test_critics_learn_of_the_same_rows_whatever_the_window_holds_besides(changes: dict[str, str]) -> None:
    model = small_dof_policy(small_spec((1, 1), 1), shared_seeds=2, shared_seed_of="episode", **changes)
    batch = windows_of_habits(model, generator())
    losses = model.losses(batch, generator())
    losses["loss"].backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    unread = replace(batch, rewards=batch.rewards.clone())
    unread.rewards[:, :, : batch.history] += 1
    assert torch.equal(model.losses(unread, generator())["loss"], losses["loss"])


@pytest.mark.parametrize("critics", ["separate", "mixed", "joint"])
def test_critics_value_an_action_given_the_seed(critics: str) -> None:
    """An action pays if it follows the habit of the episode, which only the seed shows."""
    model = small_dof_policy(
        small_spec((1, 1), 1), shared_seeds=HABITS, shared_seed_of="episode", critics=critics, value_mixer=value.Sum,
        discount=0.0, target_update_rate=1.0, critic_learning_rate=1e-2,
    )  # fmt: skip
    optimizer = model.configure_optimizers()
    for step in range(200):
        batch, _ = rewarded_windows(model, generator(step))
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        optimizer.step()
        model.after_step()
    batch, habit = rewarded_windows(model, generator(1000))
    known = model.diffused(batch, generator()).condition
    critic = model.policy().critic
    assert critic is not None
    with_it, against_it = (critic(known, sign * habit).amin(0) for sign in (0.6, -0.6))
    assert float((with_it > against_it).float().mean()) > 0.9


@pytest.mark.parametrize("critics", ["separate", "mixed", "joint"])
@pytest.mark.parametrize("value_learning", ["td", "conservative", "implicit", "expectile"])
def test_every_critic_takes_the_seed_by_every_rule(critics: str, value_learning: str) -> None:
    """Values differ between seeds, also with a global state, weights and the full gradient."""
    model = small_dof_policy(
        small_spec((1, 1), 1, state_dim=3), shared_seeds=2, shared_seed_of="episode", critics=critics,
        value_learning=value_learning, advantage_temperature=1.0, q_gradient="full",
    )  # fmt: skip
    batch = replace(windows_of_habits(model, generator()), state=torch.zeros(128, model.window.length + 1, 3))
    losses = model.losses(batch, generator())
    losses["loss"].backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    seeds = torch.zeros(128, 2, dtype=torch.int64)
    row = Situation.of(batch, batch.history, model.normalizer)
    actions = batch.actions[:, :, batch.history]
    assert model.critic is not None
    one, other = (model.critic.online(row.given(model.settings.seeds, seed), actions) for seed in (seeds, seeds + 1))
    assert bool((one != other).all())


@pytest.mark.parametrize("size", [1, 63, 64, 65])
def test_a_batch_may_have_any_size(size: int) -> None:
    """A rank's share of a batch, or the last batch of the held-out windows, may be small."""
    model = episode_model()
    batch = windows_of_habits(model, generator(), size=size)
    losses = model.losses(batch, generator())
    losses["loss"].backward()
    found = losses | model.heldout_losses(batch, generator())
    assert all(bool(value.isfinite()) for value in found.values())


def test_padded_entries_of_actions_do_not_count_as_predicted() -> None:
    assignment = EpisodeSeedAssignment(2, small_spec((3, 1)))
    for parameter in assignment.parameters():
        torch.nn.init.zeros_(parameter)
    actions = torch.ones(16, 2, ROWS, 3)
    actions[:, 1, :, 1:] = 0.0
    rows = EpisodeRows(torch.zeros(16, 2, ROWS, 4), actions, torch.ones(16, 2, ROWS, dtype=torch.bool))
    torch.testing.assert_close(assignment(rows, generator()).losses["loss/shared_seed"], torch.tensor(1.0))


def rewarded_windows(model: DoFPolicy, draw: torch.Generator) -> tuple[EpisodeBatch, Tensor]:
    """Windows of habits with noisy actions, paid by how far these go the habit's way; and the habits `[B, N, 1]`."""
    batch = windows_of_habits(model, draw)
    habit = SIDES[batch.episode_id % HABITS][..., None]
    actions = batch.actions + 0.4 * torch.randn(batch.actions.shape, generator=draw)
    paid = (habit * actions[..., 0]).mean(1, keepdim=True).expand(-1, 2, -1)
    return replace(batch, actions=actions, rewards=paid), habit
