import numpy as np
import pytest
import torch

from dof_lightning.errors import UserError
from dof_lightning.normalization import NORMALIZERS, EmpiricalCDF, build_normalizer
from tests.fixtures.small_spec import dimension_statistics

N, D, M = 3, 4, 4000
KINDS = list(NORMALIZERS)
CONSTANT = 2.5


def dataset():
    """`[M, N, D]`: skewed, an agent apart; dimension 2 constant, dimension 3 padded for the last agent."""
    data = np.random.default_rng(0).exponential(size=(M, N, D)) * np.array([1.0, 10.0, 0.1])[:, None]
    data[:, :, 2] = CONSTANT
    data[:, -1, 3] = 0
    return data.astype(np.float32)


def built(kind, data=None, quantiles=201):
    return build_normalizer(kind, dimension_statistics(dataset() if data is None else data, quantiles))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("middle", [(), (5,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, middle, dtype):
    normalizer = built(kind)
    count = int(np.prod(middle, initial=1))
    rows = torch.as_tensor(dataset())[: 8 * count].reshape(8, *middle, N, D).movedim(-2, 1).to(dtype)
    z = normalizer.normalize(rows)
    assert z.shape == rows.shape
    assert z.dtype == dtype
    torch.testing.assert_close(normalizer.unnormalize(z), rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_data_stay_within_the_clip_range_it_names(kind):
    normalizer = built(kind)
    z = normalizer.normalize(torch.as_tensor(dataset()))
    if normalizer.clip_range is None:
        assert z.abs().max() > 1
    else:
        assert z.abs().max() <= normalizer.clip_range + 1e-6


def test_ranges_by_kind():
    x = torch.as_tensor(dataset())
    limits, gaussian = built("limits").normalize(x)[..., :2], built("gaussian").normalize(x)[..., :2]
    torch.testing.assert_close(limits.amin(0), -torch.ones(N, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(limits.amax(0), torch.ones(N, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(gaussian.mean(0), torch.zeros(N, 2), rtol=0, atol=1e-4)
    torch.testing.assert_close(gaussian.std(0), torch.ones(N, 2), rtol=0, atol=1e-3)
    assert torch.equal(built("identity").normalize(x), x)


def test_identity_names_a_clip_range_only_where_the_data_have_it():
    assert built("identity").clip_range is None
    assert built("identity", np.clip(dataset(), -1, 1)).clip_range == 1.0


def test_the_empirical_distribution_becomes_uniform():
    z = built("cdf").normalize(torch.as_tensor(dataset()))[..., :2]
    for level in (-0.8, -0.3, 0.0, 0.4, 0.9):
        share = (z <= level).float().mean(dim=0)
        torch.testing.assert_close(share, torch.full((N, 2), (level + 1) / 2), rtol=0, atol=0.02)


def test_the_empirical_distribution_interpolates_between_knots():
    normalizer = built("cdf", np.array([0.0, 1.0, 4.0])[:, None, None], quantiles=3)
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.5, 4.0, 9.0])[:, None, None]
    z = torch.tensor([-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0])[:, None, None]
    torch.testing.assert_close(normalizer.normalize(x), z)
    torch.testing.assert_close(normalizer.unnormalize(z), x.clamp(0, 4))


def test_repeated_values_map_to_the_middle_of_their_jump_and_back():
    data = np.repeat([0.0, 1.0], [750, 250])[:, None, None]
    normalizer = built("cdf", data, quantiles=1001)
    x = torch.tensor([-0.5, 0.0, 1.0, 1.5])[:, None, None]
    z = normalizer.normalize(x)
    torch.testing.assert_close(z.flatten(), torch.tensor([-1.0, -0.25, 0.75, 1.0]), rtol=0, atol=2e-3)
    assert z.flatten()[[0, -1]].tolist() == [-1.0, 1.0]
    nearby = z[1:3] + torch.tensor([-0.2, 0.2])[:, None, None]
    assert torch.equal(normalizer.unnormalize(nearby).flatten(), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("kind", ["limits", "gaussian", "cdf"])
def test_constant_and_padded_dimensions_are_centred_and_nothing_else(kind):
    normalizer = built(kind)
    x = torch.as_tensor(dataset())[:4]
    z = normalizer.normalize(x)
    torch.testing.assert_close(z[..., 2], torch.zeros(4, N), rtol=0, atol=1e-5)
    torch.testing.assert_close(z[:, -1, 3], torch.zeros(4), rtol=0, atol=0)
    x[..., 2] += 0.25
    torch.testing.assert_close(normalizer.normalize(x)[..., 2], torch.full((4, N), 0.25), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_select_agent_is_that_agents_row_and_numbers(kind):
    normalizer = built(kind)
    x = torch.as_tensor(dataset())[:6]
    z = normalizer.normalize(x)
    for i in range(N):
        alone = normalizer.select_agent(i)
        assert torch.equal(alone.normalize(x[:, i : i + 1]), z[:, i : i + 1])
        assert torch.equal(alone.unnormalize(z[:, i : i + 1]), normalizer.unnormalize(z)[:, i : i + 1])
        assert all(buffer.shape[0] == 1 for buffer in alone.buffers())
    assert all(buffer.shape[0] == N for buffer in normalizer.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_travel_in_the_weights(kind):
    normalizer, other = built(kind), built(kind, dataset() * 3 + 1)
    x = torch.as_tensor(dataset())[:6]
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other.normalize(x), normalizer.normalize(x))


@pytest.mark.parametrize("kind", KINDS)
def test_unnormalize_passes_gradients(kind):
    z = torch.zeros(5, N, D, requires_grad=True)
    built(kind).unnormalize(z).sum().backward()
    assert (z.grad[..., :2] > 0).all()


def test_unknown_kinds_and_missing_knots_are_refused():
    with pytest.raises(UserError, match="identity, limits, gaussian, cdf"):
        built("minmax")
    with pytest.raises(UserError, match="at least 2 quantile knots"):
        EmpiricalCDF(dimension_statistics(dataset(), quantiles=1))
