import pytest
import torch

from dof_lightning.diffusion.dpm_solver import DPMSolver
from dof_lightning.diffusion.sampler import DDIM, DDPM
from dof_lightning.diffusion.schedule import vp
from dof_lightning.factorization import data, noise, value
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.seeding import make_generator
from tests.fixtures.small_spec import small_spec

N, B, D = 3, 64, 2
FACTORIZATIONS = [noise.Concat, noise.WConcat, data.Concat, data.WConcat]
MIXERS = [value.Sum, value.Weighted, value.Monotone, value.Attention]


def normal(*shape, key="x", dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=make_generator("factorization", key))


def build(factory, log_weights=(0.3, -1.0, 0.5)):
    factorization = factory(small_spec())
    if hasattr(factorization, "log_weight"):
        with torch.no_grad():
            factorization.log_weight.copy_(torch.tensor(log_weights))
    return factorization


@pytest.mark.parametrize("factory", FACTORIZATIONS)
def test_before_training_it_is_plain_concatenation(factory):
    parts = normal(B, N, D)
    assert torch.equal(factory(small_spec()).join(parts), parts)


@pytest.mark.parametrize("factory", FACTORIZATIONS)
def test_one_agents_copy_holds_its_own_weight_only(factory):
    factorization = build(factory)
    assert all(p.numel() == N for p in factorization.parameters())
    assert all(p.numel() == 1 for p in factorization.select_agent(1).parameters())


def test_local_execution_of_weighted_data_is_the_joint_map_and_noise_weights_cancel():
    parts = normal(B, N, D)
    h, f = build(data.WConcat), build(noise.WConcat)
    torch.testing.assert_close(h.local(parts), h.join(parts))
    assert torch.equal(f.local(parts), parts)


@pytest.mark.parametrize("factory", FACTORIZATIONS)
def test_flags_and_metrics(factory):
    factorization = build(factory)
    assert factorization.local_execution
    assert factorization.satisfies_igd
    weights = factorization.metrics()
    if hasattr(factorization, "weight"):
        assert list(weights) == [f"weight_{i}" for i in range(N)]
        torch.testing.assert_close(torch.stack(list(weights.values())), factorization.weight.detach())
        assert not any(w.requires_grad for w in weights.values())
    else:
        assert weights == {}


def test_noise_weights_have_geometric_mean_one_and_do_not_collapse():
    f = noise.WConcat(small_spec())
    optimizer = torch.optim.Adam(f.parameters(), lr=0.05)
    errors = normal(B, N, D) * torch.tensor([0.5, 1.0, 2.0])[:, None]
    for _ in range(300):
        optimizer.zero_grad()
        f.join(errors).square().mean().backward()
        optimizer.step()
        assert f.weight.log().mean().abs() < 1e-5
    # At the optimum of mean_i w_i^2 L_i under the constraint all w_i^2 L_i are equal.
    agent_errors = errors.square().mean(dim=(0, 2))
    weighted = f.weight.detach() ** 2 * agent_errors
    torch.testing.assert_close(weighted, weighted.mean().expand(N), rtol=1e-2, atol=0)
    expected = agent_errors**-0.5
    expected = expected / expected.log().mean().exp()
    torch.testing.assert_close(f.weight.detach(), expected, rtol=1e-2, atol=0)
    assert f.weight.min() > 0.1


@pytest.mark.parametrize("sampler", [DDPM(vp(10)), DDIM(vp(10), 3), DPMSolver(vp(10), 5)])
@pytest.mark.parametrize("factory", [noise.Concat, noise.WConcat])
def test_the_joint_chain_and_each_agents_own_chain_are_one_path(factory, sampler):
    f, network = build(factory).double(), MLPDenoiser(small_spec(), D, hidden=(16,)).double()
    condition, noises = normal(B, N, D, dtype=torch.float64), normal(sampler.n_noises, B, N, D, dtype=torch.float64)
    joint = sampler.sample(
        lambda x, k: f.join(network(f.split(x), k, condition)),
        torch.stack([f.join(noise) for noise in noises]),
        lambda x0: f.join(f.split(x0).clamp(-1, 1)),
    )
    for i in range(N):
        own, rows = network.select_agent(i), slice(i, i + 1)
        alone = sampler.sample(
            lambda x, k, own=own, rows=rows: own(x, k, condition[:, rows]),
            noises[:, :, rows],
            lambda x0: x0.clamp(-1, 1),
        )
        torch.testing.assert_close(f.split(joint)[:, rows], alone, rtol=0, atol=1e-10)


def test_data_weights_learn_the_scale_of_the_unweighted_target():
    h = data.WConcat(small_spec())
    optimizer = torch.optim.Adam(h.parameters(), lr=0.05)
    x0, scale = normal(B, N, D), torch.tensor([0.5, 1.0, 2.0])[:, None]
    for _ in range(400):
        optimizer.zero_grad()
        (h.join(x0 / scale) - x0).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(h.weight.detach(), scale[:, 0], rtol=1e-2, atol=0)


@pytest.mark.parametrize("state_dim", [0, 5])
@pytest.mark.parametrize("factory", MIXERS)
def test_mixers_are_monotone_in_every_agents_value(factory, state_dim):
    mixer = factory(small_spec(), state_dim)
    values, state = 5 * normal(B, N, 1), normal(B, state_dim, key="state")
    values.requires_grad_()
    total = mixer(values, state)
    assert total.shape == (B, 1)
    (slope,) = torch.autograd.grad(total.sum(), values)
    assert (slope >= 0).all()
    assert (slope.mean(dim=0) > 0).all()
    assert mixer.satisfies_igm


def test_the_best_joint_choice_is_everybodys_own_best():
    mixer, choices = value.Monotone(small_spec(), state_dim=5), 4
    own = normal(N, choices, key="choices")
    joint = torch.cartesian_prod(*[torch.arange(choices)] * N)
    values = own[torch.arange(N), joint][..., None]
    state = normal(1, 5, key="state").expand(len(joint), -1)
    best = joint[mixer(values, state)[:, 0].argmax()]
    assert torch.equal(best, own.argmax(dim=1))


@pytest.mark.parametrize("state_dim", [0, 5])
def test_every_parameter_of_the_monotone_mixer_learns(state_dim):
    mixer = value.Monotone(small_spec(), state_dim)
    mixer(normal(B, N, 1), normal(B, state_dim, key="state")).square().sum().backward()
    assert all((p.grad != 0).any() for p in mixer.parameters())


def test_the_monotone_mixer_depends_on_the_state_and_on_no_other_row():
    mixer = value.Monotone(small_spec(), state_dim=5)
    values, state = normal(B, N, 1), normal(B, 5, key="state")
    total = mixer(values, state)
    changed = state.clone()
    changed[0] += 1
    moved = mixer(values, changed) != total
    assert moved[0]
    assert not moved[1:].any()


def test_the_sum_is_the_sum():
    values = normal(B, N, 1)
    assert torch.equal(value.Sum(small_spec(), 0)(values, torch.zeros(B, 0)), values.sum(dim=1))
