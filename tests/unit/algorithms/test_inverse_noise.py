"""Inverse dynamics that learns from noisy next observations."""

import pytest
import torch

from dof_lightning.algorithms.parts.losses import inverse_loss
from dof_lightning.errors import UserError
from tests.fixtures.trajectory_models import small_dof_trajectory, small_windows


def loss(noise: float, seed: int = 0) -> torch.Tensor:
    model = small_dof_trajectory()
    parts = (model.spec, small_windows(model), model.inverse, model.inverse_normalizer)
    with torch.no_grad():
        return inverse_loss(*parts, noise=noise, generator=torch.Generator().manual_seed(seed))


def test_noise_is_drawn_from_the_generator_and_none_is_drawn_without() -> None:
    assert torch.equal(loss(0.0, seed=0), loss(0.0, seed=1))
    assert torch.equal(loss(0.5, seed=0), loss(0.5, seed=0))
    assert not torch.equal(loss(0.5, seed=0), loss(0.5, seed=1))
    torch.testing.assert_close(loss(1e-6), loss(0.0), atol=1e-4, rtol=1e-4)
    generator = torch.Generator().manual_seed(3)
    model = small_dof_trajectory()
    inverse_loss(model.spec, small_windows(model), model.inverse, model.inverse_normalizer, 0.0, generator)
    assert generator.get_state().equal(torch.Generator().manual_seed(3).get_state())


def test_training_sees_the_noise_and_held_out_episodes_do_not() -> None:
    plain, noisy = small_dof_trajectory(), small_dof_trajectory(inverse_noise=0.5)
    batch = small_windows(plain)
    with torch.no_grad():
        trained = [float(m.losses(batch, torch.Generator().manual_seed(0))["loss/inverse"]) for m in (plain, noisy)]
        heldout = [
            float(m.heldout_losses(batch, torch.Generator().manual_seed(0))["heldout/inverse"]) for m in (plain, noisy)
        ]
    assert trained[0] != trained[1]
    assert heldout[0] == heldout[1]


def test_a_negative_noise_is_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm\.inverse_noise=-1\.0 must be at least 0"):
        small_dof_trajectory(inverse_noise=-1.0)


def test_a_row_that_was_not_recorded_follows_no_action() -> None:
    """The last step of an episode that ended is a transition for TD, but nobody saw where it led."""
    model = small_dof_trajectory()
    batch = small_windows(model)
    batch.transition_mask[:] = True
    batch.valid[:, -1] = False
    parts = (model.inverse, model.inverse_normalizer)
    with torch.no_grad():
        before = inverse_loss(model.spec, batch, *parts)
        batch.observations[:, :, -1] += 1
        batch.actions[:, :, -1] -= 0.5
        assert torch.equal(before, inverse_loss(model.spec, batch, *parts))
        batch.valid[:] = True
        assert not torch.equal(before, inverse_loss(model.spec, batch, *parts))
