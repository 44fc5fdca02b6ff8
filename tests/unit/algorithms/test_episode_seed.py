"""A shared seed of a whole episode: its windows share it, habits are told apart, and runs go on exactly."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.diffused import Diffused
from dof_lightning.algorithms.parts.episode_seed import MEMORY, EpisodeSeedAssignment
from dof_lightning.batch import EpisodeBatch
from dof_lightning.errors import UserError
from tests.fixtures.policy_models import generator, small_batch
from tests.fixtures.small_spec import small_spec
from tests.fixtures.xor_models import small_xor_model

EPISODES, HABITS = 64, 4
SIDES = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])  # where a habit's two agents go


def episode_model(weights_seed: int = 0) -> DoFPolicy:
    """Two agents that observe one number; four shared seeds, an episode each."""
    spec = replace(small_spec(action_dims=(1, 1), observation_dim=1), recipe={"episodes": EPISODES})
    return small_xor_model(weights_seed, spec=spec, shared_seeds=HABITS, shared_seed_of="episode")


def windows_of_habits(model: DoFPolicy, draw: torch.Generator, size: int = 128) -> EpisodeBatch:
    """Windows of episodes, episode e with habit e mod 4: no observation says which."""
    ids = torch.randint(EPISODES, (size,), generator=draw)
    seen = torch.randn(size, 2, 1, generator=draw)
    actions = 0.6 * SIDES[ids % HABITS] + 0.3 * seen[..., 0].tanh() + 0.05 * torch.randn(size, 2, generator=draw)
    observations = seen[:, :, None].expand(-1, -1, 2, -1)
    batch = small_batch(model.spec, size=size)
    return replace(batch, episode_id=ids, observations=observations, actions=actions[:, :, None, None])


def train(model: DoFPolicy, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        batch = windows_of_habits(model, generator(step))
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        optimizer.step()
        model.after_step()


def table(model: DoFPolicy) -> Tensor:
    assert isinstance(model.seed_assignment, EpisodeSeedAssignment)
    return model.seed_assignment.evidence


def test_habits_are_told_apart_and_all_windows_of_an_episode_share_the_seed() -> None:
    model = episode_model()
    train(model, model.configure_optimizers(), 0, 100)
    habit, seed = torch.arange(EPISODES) % HABITS, table(model).argmax(1)
    together = torch.zeros(HABITS, HABITS).index_put_((habit, seed), torch.ones(()), accumulate=True)
    assert len(together.argmax(1).unique()) == HABITS
    assert float(together.amax(1).sum()) > 0.95 * EPISODES
    batch = windows_of_habits(model, generator(1))
    known, x0 = model.normalizer.normalize(batch.observations[:, :, 0]), batch.actions[:, :, 0]
    untold = Diffused(x0, known, model.data_mask, model.entry_weight(x0, None))
    drawn = model.assign_seed(known, untold, generator(), batch.episode_id)
    assert drawn.shared_seed is not None
    assert float((drawn.shared_seed[:, 0] == seed[batch.episode_id]).float().mean()) > 0.95
    assert float(drawn.losses["shared_seed/gain"]) > 0.5


def test_windows_of_an_episode_share_a_seed_that_nothing_speaks_for() -> None:
    part, ids = EpisodeSeedAssignment(HABITS, EPISODES), torch.arange(256) % 32
    errors = torch.rand(2, 256, HABITS, generator=generator())
    seed = part.draw(errors, ids, 3, generator(1)).shared_seed
    assert seed is not None
    assert seed.shape == (256, 3)
    assert torch.equal(seed, seed[:32].repeat(8, 1))
    assert len(seed.unique()) == HABITS


def test_the_table_sums_an_episodes_windows_and_forgets() -> None:
    """However the windows came together: in one batch, or in several before a step."""
    errors = torch.stack([torch.tensor([[1.0, 3.0], [3.0, 1.0]])] * 2).repeat(1, 3, 1)
    ids = torch.tensor([5, 6, 5, 6, 7, 7])
    whole, parts = EpisodeSeedAssignment(2, 8), EpisodeSeedAssignment(2, 8)
    whole.draw(errors, ids, 2, generator())
    for rows in (slice(0, 2), slice(2, 6)):
        parts.draw(errors[:, rows], ids[rows], 2, generator())
    assert not whole.evidence.any()
    whole.after_step()
    parts.after_step()
    torch.testing.assert_close(whole.evidence[5:], torch.tensor([[2.0, -2.0], [-2.0, 2.0], [0.0, 0.0]]))
    torch.testing.assert_close(whole.evidence, parts.evidence)
    whole.draw(errors[:, :2], ids[:2], 2, generator())
    whole.after_step()
    whole.after_step()
    torch.testing.assert_close(whole.evidence[5], torch.tensor([2.0, -2.0]) * MEMORY + torch.tensor([1.0, -1.0]))


def test_a_resumed_run_goes_on_exactly() -> None:
    model, resumed = episode_model(), episode_model(weights_seed=1)
    optimizer = model.configure_optimizers()
    train(model, optimizer, 0, 3)
    resumed.load_state_dict(model.state_dict())
    again = resumed.configure_optimizers()
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 3, 6)
    train(resumed, again, 3, 6)
    assert table(model).any()
    for one, other in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_held_out_windows_leave_no_trace() -> None:
    model = episode_model()
    model.heldout_losses(windows_of_habits(model, generator()), generator())
    model.after_step()
    assert not table(model).any()


def test_episodes_outside_of_the_table_are_refused() -> None:
    part = EpisodeSeedAssignment(2, EPISODES)
    with pytest.raises(UserError, match=r"episode_id of 64, .* 0 to 63; choose algorithm\.shared_seed_of=window"):
        part.draw(torch.rand(2, 2, 2), torch.tensor([3, 64]), 2, generator())
    with pytest.raises(UserError, match=r"recipe of small does not say .*choose algorithm\.shared_seed_of=window"):
        small_xor_model(shared_seeds=2, shared_seed_of="episode")
