import copy

import pytest
import torch
from torch import nn
from torch.func import jacrev

from dof_lightning.errors import UserError
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.denoiser import SinusoidalEmbedding
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.seeding import make_generator
from tests.fixtures.small_spec import ACTION_DIMS, small_spec

N, B, C, A = 3, 6, 4, 2
SHARINGS = ["independent", "shared"]


def normal(*shape, key="x", dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=make_generator("networks", key))


def denoiser(sharing):
    return MLPDenoiser(small_spec(), C, hidden=(16, 16), sharing=sharing)


def critic(sharing):
    return AgentwiseCritic(small_spec(), C, hidden=(16, 16), sharing=sharing)


def inputs(dtype=torch.float32):
    x, condition = normal(B, N, A, dtype=dtype), normal(B, N, C, key="condition", dtype=dtype)
    return x, torch.arange(1, B + 1), condition


def off_diagonal(jacobian):
    """Largest derivative of agent i's result by agent j's input, `[N, result, N, input]`, i != j."""
    agents = torch.arange(N)
    others = agents[:, None] != agents
    return jacobian.movedim(2, 1)[others].abs().max()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_denoisers_of_different_agents_do_not_see_each_other(sharing):
    network = denoiser(sharing).double()
    x, k, condition = inputs(torch.float64)
    for row in range(B):
        by_x = jacrev(lambda x, r=row: network(x[None], k[r : r + 1], condition[r : r + 1])[0])(x[row])
        by_condition = jacrev(lambda c, r=row: network(x[r : r + 1], k[r : r + 1], c[None])[0])(condition[row])
        assert off_diagonal(by_x) == 0
        assert off_diagonal(by_condition) == 0
        assert (by_x.abs().amax(dim=(1, 3)).diagonal() > 0).all()
        assert (by_condition.abs().amax(dim=(1, 3)).diagonal() > 0).all()


@pytest.mark.parametrize("width", [0, 2, 15, -4])
def test_a_width_that_no_embedding_can_have_is_refused(width):
    with pytest.raises(UserError, match=rf"denoiser\.time_embedding={width} must be even and at least 4"):
        MLPDenoiser(small_spec(), C, hidden=(16, 16), time_embedding=width)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_select_agent_denoises_as_that_agent(sharing):
    network = denoiser(sharing)
    x, k, condition = inputs()
    everybody = network(x, k, condition)
    for i in range(N):
        alone = network.select_agent(i)
        own = alone(x[:, i : i + 1], k, condition[:, i : i + 1])
        torch.testing.assert_close(own[:, 0], everybody[:, i], rtol=0, atol=1e-6)
        if sharing == "independent":
            assert sum(p.numel() for p in alone.parameters()) * N == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("sharing", SHARINGS)
def test_padded_action_dimensions_carry_no_noise(sharing):
    network = denoiser(sharing)
    noise = network(*inputs())
    assert noise.shape == (B, N, A)
    for i, dim in enumerate(ACTION_DIMS):
        assert (noise[:, i, dim:] == 0).all()
        assert (noise[:, i, :dim] != 0).all()


def test_a_shared_denoiser_tells_agents_apart():
    network = denoiser("shared")
    x, k, condition = inputs()
    same = network(x[:, :1].expand(-1, N, -1), k, condition[:, :1].expand(-1, N, -1))
    assert not torch.allclose(same[:, 0], same[:, 2])


def embedded(build):
    network = {"denoiser": MLPDenoiser, "critic": AgentwiseCritic}[build]
    return network(small_spec(), C, hidden=(16, 16), sharing="shared", agent_embedding=5)


@pytest.mark.parametrize("build", ["denoiser", "critic"])
def test_a_learned_embedding_tells_agents_apart_and_a_selected_agent_keeps_its_own_only(build):
    network = embedded(build)
    x, k, condition = inputs()
    x, condition = (part[:, :1].expand(-1, N, -1) for part in (x, condition))
    arguments = (x, k, condition) if build == "denoiser" else (condition, x)
    everybody = network(*arguments)
    agents = everybody.movedim(1, 0)[:, :, 0] if build == "denoiser" else everybody[0].T
    assert not torch.allclose(agents[0], agents[2])
    everybody.square().sum().backward()
    vectors = network.agent_embedding.vectors
    assert vectors.shape == (N, 5)
    assert bool((vectors.grad != 0).any(1).all())
    for i in range(N):
        alone = network.select_agent(i)
        assert torch.equal(alone.agent_embedding.vectors, vectors[i : i + 1])
        own = alone(*(part if part is k else part[:, :1] for part in arguments))
        mine = everybody[:, i : i + 1] if build == "denoiser" else everybody[:, :, i : i + 1]
        torch.testing.assert_close(own, mine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", [MLPDenoiser, AgentwiseCritic])
@pytest.mark.parametrize(
    ("sharing", "width", "words"), [("independent", 5, "sharing=shared"), ("shared", 0, "at least 1")]
)
def test_an_embedding_that_makes_no_sense_is_refused(network, sharing, width, words):
    with pytest.raises(UserError, match=words):
        network(small_spec(), C, hidden=(16, 16), sharing=sharing, agent_embedding=width)


@pytest.mark.parametrize("build", [denoiser, critic])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_every_parameter_gets_a_gradient_and_state_round_trips(build, sharing):
    network, other = build(sharing), build(sharing)
    x, k, condition = inputs()
    arguments = (x, k, condition) if build is denoiser else (condition, x)
    network(*arguments).square().sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in network.parameters())
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(*arguments), network(*arguments))


def test_the_step_matters_and_is_embedded_without_collisions():
    embedding = SinusoidalEmbedding(16)(torch.arange(1, 201))
    assert embedding.shape == (200, 16)
    assert torch.pdist(embedding).min() > 1e-2
    network = denoiser("independent")
    x, k, condition = inputs()
    assert not torch.allclose(network(x, k, condition), network(x, k + 1, condition))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_critics_rate_each_agents_own_action_with_two_different_networks(sharing):
    network = critic(sharing)
    actions, _, condition = inputs()
    values = network(condition, actions)
    assert values.shape == (2, B, N)
    assert not torch.allclose(values[0], values[1])
    jacobian = jacrev(lambda a: network(condition[:1], a[None])[:, 0])(actions[0])
    for twin in jacobian:
        assert off_diagonal(twin[:, None]) == 0
        assert (twin.abs().amax(dim=2).diagonal() > 0).all()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_select_agent_rates_as_that_agent(sharing):
    network = critic(sharing)
    actions, _, condition = inputs()
    everybody = network(condition, actions)
    for i in range(N):
        own = network.select_agent(i)(condition[:, i : i + 1], actions[:, i : i + 1])
        torch.testing.assert_close(own[..., 0], everybody[..., i], rtol=0, atol=1e-6)


def test_twins_are_two_networks_of_their_own():
    network = critic("independent")
    actions, _, condition = inputs()
    network(condition, actions)[0].sum().backward()
    for parameter in network.parameters():
        first, second = parameter.grad.unflatten(0, (2, N))
        assert (first != 0).any()
        assert (second == 0).all()


def test_an_average_follows_the_formula_and_takes_no_gradient():
    online = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = ema_copy(online)
    start = copy.deepcopy(average.state_dict())
    with torch.no_grad():
        for parameter in online.parameters():
            parameter += 1.0
    online(normal(10, 3))
    ema_update(average, online, decay=0.9)
    for name, parameter in average.named_parameters():
        expected = 0.9 * start[name] + 0.1 * online.get_parameter(name)
        torch.testing.assert_close(parameter, expected)
        assert not parameter.requires_grad
    for name, buffer in average.named_buffers():
        assert torch.equal(buffer, online.get_buffer(name))
    assert not average.training
    assert online.training


def test_an_average_at_the_ends_copies_or_stays():
    online = denoiser("independent")
    average = ema_copy(denoiser("independent"))
    before = copy.deepcopy(average.state_dict())
    ema_update(average, online, decay=1.0)
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict().items())
    ema_update(average, online, decay=0.0)
    assert all(torch.equal(value, online.state_dict()[name]) for name, value in average.state_dict().items())
    ema_update(nn.Identity(), nn.Identity(), decay=0.5)
