import pytest
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import (
    ACTIVATIONS,
    AgentwiseLinear,
    AgentwiseMLP,
    agentwise_parameters,
    clip_gradient_norm,
)
from dof_lightning.seeding import make_generator

N, B, SIZES = 3, 5, (4, 8, 2)


def normal(*shape, key="x"):
    return torch.randn(*shape, generator=make_generator("agentwise", key))


def separate_networks(bank: AgentwiseMLP, agent: int, activation: str) -> nn.Sequential:
    """Agent i's network as ordinary torch layers with the bank's numbers."""
    layers: list[nn.Module] = []
    for own in (layer for layer in bank.layers if isinstance(layer, AgentwiseLinear)):
        row = agent if own.sharing == "independent" else 0
        layer = nn.Linear(*own.weight.shape[1:])
        layer.load_state_dict({"weight": own.weight[row].T, "bias": own.bias[row, 0]})
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def set_gradients(module: nn.Module, key: str = "gradient", scale: float = 1.0) -> None:
    for index, parameter in enumerate(module.parameters()):
        parameter.grad = scale * normal(*parameter.shape, key=f"{key}{index}")


def agent_gradient(module: nn.Module, agent: int, n_agents: int = N) -> Tensor:
    return torch.cat([p.grad[agent::n_agents].flatten() for p in agentwise_parameters(module)[0]])


@pytest.mark.parametrize("sharing", ["independent", "shared"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_bank_equals_separate_networks_forward_and_backward(activation, sharing):
    bank = AgentwiseMLP(N, SIZES, activation, sharing)
    networks = [separate_networks(bank, i, activation) for i in range(N)]
    x = normal(B, N, SIZES[0])
    x_bank, x_separate = x.clone().requires_grad_(), x.clone().requires_grad_()
    together = bank(x_bank)
    separately = torch.stack([networks[i](x_separate[:, i]) for i in range(N)], dim=1)
    torch.testing.assert_close(together, separately)

    target = normal(B, N, SIZES[-1], key="target")
    ((together - target) ** 2).sum().backward()
    ((separately - target) ** 2).sum().backward()
    torch.testing.assert_close(x_bank.grad, x_separate.grad)
    own_layers = [layer for layer in bank.layers if isinstance(layer, AgentwiseLinear)]
    for depth, own in enumerate(own_layers):
        theirs = torch.stack([network[2 * depth].weight.grad.T for network in networks])
        biases = torch.stack([network[2 * depth].bias.grad[None] for network in networks])
        if sharing == "shared":
            theirs, biases = theirs.sum(0, keepdim=True), biases.sum(0, keepdim=True)
        torch.testing.assert_close(own.weight.grad, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.bias.grad, biases, atol=1e-5, rtol=1e-5)


def test_a_shared_layer_has_one_weight_and_folds_the_agents():
    layer = AgentwiseLinear(N, 4, 2, "shared")
    assert layer.weight.shape == (1, 4, 2)
    x = normal(N, B, 4)
    torch.testing.assert_close(layer(x), x @ layer.weight[0] + layer.bias[0])


def test_shapes_keep_agents_after_the_batch():
    @jaxtyped(typechecker=beartype)
    def call(x: Float[Tensor, "B N 4"]) -> Float[Tensor, "B N 2"]:
        return AgentwiseMLP(N, SIZES)(x)

    call(normal(B, N, SIZES[0]))


def test_each_agent_starts_as_an_ordinary_layer_would_and_differs_from_the_others():
    layer = AgentwiseLinear(50, 64, 32)
    bound = 64**-0.5
    assert layer.weight.abs().max() <= bound
    assert layer.bias.abs().max() <= bound
    # A uniform law on [-bound, bound] has deviation bound / sqrt(3).
    deviations = layer.weight.flatten(1).std(dim=1)
    torch.testing.assert_close(deviations, torch.full((50,), bound / 3**0.5), rtol=0.1, atol=0)
    assert len(layer.weight[:, 0, 0].unique()) == 50


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("sharing", ["independent", "shared"])
def test_select_agent_is_that_agents_row(sharing, ensemble):
    bank = AgentwiseMLP(N, SIZES, sharing=sharing, ensemble=ensemble)
    x = normal(ensemble * N, B, SIZES[0])
    everybody = bank.agents_first(x).view(ensemble, N, B, SIZES[-1])
    for agent in range(N):
        alone = bank.select_agent(agent)
        assert alone.n_agents == 1
        own = alone.agents_first(x.view(ensemble, N, B, -1)[:, agent])
        torch.testing.assert_close(own, everybody[:, agent], rtol=0, atol=1e-6)
        kept = sum(p.numel() for p in alone.parameters())
        everything = sum(p.numel() for p in bank.parameters())
        assert kept == (everything if sharing == "shared" else everything // N)


def test_select_agent_is_a_copy():
    bank = AgentwiseMLP(N, SIZES)
    alone = bank.select_agent(1)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.zero_()
    assert all((p != 0).any() for p in bank.parameters())
    assert bank.n_agents == N
    with pytest.raises(IndexError):
        bank.select_agent(N)


def test_parameters_are_sorted_by_whom_they_belong_to():
    own, common, head = AgentwiseMLP(N, SIZES), AgentwiseMLP(N, SIZES, sharing="shared"), nn.Linear(2, 2)
    stacked, shared = agentwise_parameters(nn.ModuleList([own, common, head]))
    assert {id(p) for p in stacked} == {id(p) for p in own.parameters()}
    assert {id(p) for p in shared} == {id(p) for p in [*common.parameters(), *head.parameters()]}


@pytest.mark.parametrize("ensemble", [1, 2])
def test_one_agents_gradients_never_change_anothers_step(ensemble):
    quiet, loud = (AgentwiseMLP(N, SIZES, ensemble=ensemble) for _ in range(2))
    for bank in (quiet, loud):
        set_gradients(bank)
    for parameter in loud.parameters():
        parameter.grad[1::N] *= 1e4
    clip_gradient_norm([quiet], 1.0)
    clip_gradient_norm([loud], 1.0)
    for agent in (0, 2):
        assert torch.equal(agent_gradient(quiet, agent), agent_gradient(loud, agent))


def test_each_agents_norm_runs_over_all_its_slices_in_the_group():
    modules = [AgentwiseMLP(N, SIZES), AgentwiseMLP(N, (3, 2), ensemble=2), nn.Linear(3, 3)]
    for index, module in enumerate(modules):
        set_gradients(module, key=str(index))
    expected = [torch.cat([agent_gradient(module, i) for module in modules[:2]]).norm() for i in range(N)]
    expected.append(torch.cat([p.grad.flatten() for p in modules[2].parameters()]).norm())
    before = clip_gradient_norm(modules, 0.5)
    torch.testing.assert_close(before, torch.stack(expected))
    torch.testing.assert_close(clip_gradient_norm(modules, None), torch.full((N + 1,), 0.5), rtol=1e-4, atol=0)


def test_small_gradients_and_a_missing_limit_change_nothing():
    bank = AgentwiseMLP(N, SIZES)
    set_gradients(bank, scale=1e-3)
    before = [p.grad.clone() for p in bank.parameters()]
    clip_gradient_norm([bank], 1.0)
    clip_gradient_norm([bank], None)
    assert all(torch.equal(p.grad, old) for p, old in zip(bank.parameters(), before, strict=True))


def test_gradients_in_any_memory_layout_are_clipped():
    layer = AgentwiseLinear(N, 4, 6)
    layer.weight.grad = normal(N, 6, 4).transpose(1, 2)
    assert not layer.weight.grad.is_contiguous()
    clip_gradient_norm([layer], 0.1)
    torch.testing.assert_close(layer.weight.grad.flatten(1).norm(dim=1), torch.full((N,), 0.1), rtol=1e-4, atol=0)


def test_missing_gradients_count_as_zero():
    bank, head = AgentwiseMLP(N, SIZES), nn.Linear(2, 2)
    assert torch.equal(clip_gradient_norm([bank, head], 1.0), torch.zeros(N + 1))
    assert torch.equal(clip_gradient_norm([nn.Identity()], 1.0), torch.zeros(1))
    bank.layers[0].weight.grad = torch.ones_like(bank.layers[0].weight)
    norms = clip_gradient_norm([bank], 1.0)
    torch.testing.assert_close(norms, torch.full((N,), (SIZES[0] * SIZES[1]) ** 0.5))


def test_unknown_choices_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="independent or shared"):
        AgentwiseLinear(N, 2, 2, "both")
    with pytest.raises(UserError, match="mish, relu, silu, tanh"):
        AgentwiseMLP(N, SIZES, "gelu")
