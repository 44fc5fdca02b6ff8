"""Order is a pure function of (seed, step): the same on every rank count, complete in every epoch."""

import pytest
import torch

from data_modules.loading.order import WindowOrder, window_order
from data_modules.storage.split import is_heldout

N_WINDOWS = 103


@pytest.mark.parametrize("epoch", [0, 1, 17])
def test_an_epoch_is_a_permutation(epoch: int) -> None:
    order = window_order(3, epoch, N_WINDOWS)
    assert torch.equal(order.sort().values, torch.arange(N_WINDOWS))


def test_epochs_and_seeds_differ() -> None:
    orders = [window_order(seed, epoch, N_WINDOWS) for seed in range(3) for epoch in range(3)]
    for i, one in enumerate(orders):
        assert all((one == other).float().mean() < 0.1 for other in orders[:i])


def test_no_global_randomness() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = window_order(0, 0, N_WINDOWS)
    torch.manual_seed(1)
    assert torch.equal(one, window_order(0, 0, N_WINDOWS))
    torch.manual_seed(0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batch", [4, 40, 104, 240])
def test_windows_of_a_step_do_not_depend_on_the_ranks(world_size: int, batch: int) -> None:
    for step in (0, 1, 2, 7, 50):
        one = WindowOrder(5, N_WINDOWS, batch).windows(step)
        ranks = [WindowOrder(5, N_WINDOWS, batch).windows(step, rank, world_size) for rank in range(world_size)]
        assert all(len(part) == batch // world_size for part in ranks)
        assert torch.equal(torch.cat(ranks), one)


@pytest.mark.parametrize("batch", [1, 8, 103, 250])
def test_the_stream_is_epoch_after_epoch(batch: int) -> None:
    order = WindowOrder(5, N_WINDOWS, batch)
    n_epochs = 6
    steps = -(-n_epochs * N_WINDOWS // batch)
    stream = torch.cat([order.windows(step) for step in range(steps)])
    expected = torch.cat([window_order(5, epoch, N_WINDOWS) for epoch in range(n_epochs)])
    assert torch.equal(stream[: len(expected)], expected)
    assert order.position(steps) == divmod(steps * batch, N_WINDOWS)


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    visited = WindowOrder(5, N_WINDOWS, 8)
    windows = [visited.windows(step) for step in range(60)]
    for step in (59, 3, 40, 12, 13, 0):
        assert torch.equal(WindowOrder(5, N_WINDOWS, 8).windows(step), windows[step])
        assert torch.equal(visited.windows(step), windows[step])


def test_held_out_share_is_as_announced() -> None:
    ids = torch.arange(200_000)
    for fraction in (0.02, 0.3):
        share = is_heldout(ids, fraction).double().mean().item()
        assert share == pytest.approx(fraction, abs=5 * (fraction / 200_000) ** 0.5)
    assert not is_heldout(ids, 0.0).any()


def test_held_out_is_a_property_of_the_id_alone() -> None:
    ids = torch.arange(10_000)
    shuffled = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(is_heldout(ids)[shuffled], is_heldout(ids[shuffled]))
    assert is_heldout(ids, 0.1)[is_heldout(ids, 0.02)].all()
