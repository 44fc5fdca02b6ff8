"""Denoisers over time: agents never meet, and windows may have any length."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise_conv import AgentwiseConv1d, AgentwiseUpsample, fold_agents, unfold_agents
from dof_lightning.networks.temporal_transformer import TemporalTransformer, TemporalTransformerSettings
from dof_lightning.networks.temporal_unet import TemporalUNet, TemporalUNetSettings
from tests.fixtures.policy_models import generator
from tests.fixtures.small_spec import small_spec
from tests.fixtures.trajectory_models import small_unet

B, N, T, O, C = 4, 3, 6, 4, 2  # noqa: E741
SHARINGS = ("independent", "shared")


def build(sharing: str, **changes: object) -> TemporalUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cast(TemporalUNet, small_unet(sharing=sharing, **changes)(small_spec(), condition_dim=C).double())


def build_transformer(sharing: str, **changes: object) -> TemporalTransformer:
    settings: dict[str, Any] = {"width": 8, "heads": 2, "embedding": 8, "sharing": sharing} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TemporalTransformerSettings(**settings)(small_spec(), condition_dim=C).double()
        for parameter in network.parameters():  # away from blocks that are the identity
            parameter.data += 0.1 * torch.randn_like(parameter)
    return cast(TemporalTransformer, network)


every_kind = pytest.mark.parametrize("make", [build, build_transformer], ids=["unet", "transformer"])


def inputs(length: int = T) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(B, N, length, O, generator=generator(), dtype=torch.float64)
    return x, torch.arange(1, B + 1), torch.randn(B, N, C, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("length", [2, 3, 4, 5, 8, 25])
def test_any_length_keeps_its_shape(sharing: str, length: int) -> None:
    x, k, condition = inputs(length)
    for network in (build(sharing, multipliers=(1, 2, 2)), build_transformer(sharing)):
        assert network(x, k, condition).shape == x.shape


def test_one_row_alone_gives_what_it_gives_among_others() -> None:
    """With one time and as many groups as channels at the bottom, a group has one value."""
    network = build("independent", channels=8, norm_groups=8, multipliers=(1, 1))
    x, k, condition = inputs(2)
    torch.testing.assert_close(network(x[:1], k[:1], condition[:1]), network(x, k, condition)[:1])


@every_kind
@pytest.mark.parametrize("sharing", SHARINGS)
def test_an_agent_sees_its_own_row_only(make: Any, sharing: str) -> None:
    network = make(sharing)
    x, k, condition = inputs()
    before = network(x, k, condition)
    x[:, 1], condition[:, 1] = 5.0, -3.0
    after = network(x, k, condition)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("embedding", [None, 4])
@every_kind
def test_a_selected_agent_predicts_as_in_the_team(make: Any, sharing: str, embedding: int | None) -> None:
    network = make(sharing, agent_embedding=embedding if sharing == "shared" else None)
    x, k, condition = inputs()
    together = network(x, k, condition)
    for agent in range(N):
        own = slice(agent, agent + 1)
        alone = network.select_agent(agent)(x[:, own], k, condition[:, own])
        torch.testing.assert_close(alone, together[:, own], rtol=0, atol=1e-12)


@every_kind
def test_step_place_and_condition_matter(make: Any) -> None:
    network = make("independent")
    x, k, condition = inputs()
    before = network(x, k, condition)
    assert not torch.allclose(before, network(x, k + 1, condition))
    assert not torch.allclose(before, network(x, k, condition + 1))
    assert not torch.allclose(before.flip(2), network(x.flip(2), k, condition))


def test_a_grouped_layer_is_each_agents_own_layer() -> None:
    """Against torch's layers, one agent at a time."""
    x = torch.randn(B, N, 5, T, generator=generator())
    for layer, alike, options in (
        (AgentwiseConv1d(N, 5, 7, 3, "independent", stride=2), torch.nn.functional.conv1d, {"padding": 1}),
        (AgentwiseUpsample(N, 5, 7, "independent"), torch.nn.functional.conv_transpose1d, {"padding": 1}),
    ):
        together = unfold_agents(layer(fold_agents(x, N)), N, N)
        for agent in range(N):
            alone = alike(x[:, agent], layer.weight[agent], layer.bias[agent], stride=2, **options)
            torch.testing.assert_close(together[:, agent], alone)


def test_small_presets_are_small() -> None:
    for settings in (TemporalUNetSettings(), TemporalTransformerSettings()):
        network = settings(small_spec(observation_dim=18), condition_dim=2)
        assert sum(parameter.numel() for parameter in network.parameters()) <= 1_000_000


def test_blocks_at_the_lowest_resolution_come_on_top_and_matter() -> None:
    plain, same, deeper = (build("shared", bottom_blocks=count) for count in (None, 1, 3))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (plain, same, deeper)]
    own = sum(parameter.numel() for parameter in plain.bottom.parameters())
    assert sizes == [sizes[0], sizes[0], sizes[0] + 2 * own]
    x, k, condition = inputs()
    assert torch.equal(plain(x, k, condition), same(x, k, condition))
    before = deeper(x, k, condition)
    with torch.no_grad():
        deeper.bottom[-1].second.weight *= 2
    assert not torch.allclose(deeper(x, k, condition), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": 4}, r"denoiser\.kernel=4 must be odd"),
        ({"norm_groups": 3}, r"denoiser\.norm_groups=3 must divide"),
        ({"blocks": 0}, r"denoiser\.blocks=0"),
        ({"bottom_blocks": 0}, r"denoiser\.bottom_blocks=0"),
        ({"multipliers": ()}, r"denoiser\.multipliers=\[\]"),
        ({"activation": "no"}, r"denoiser\.activation=no is unknown; choose one of"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build("independent", **changes)


def test_a_width_that_heads_do_not_divide_is_named() -> None:
    with pytest.raises(UserError, match=r"denoiser\.width=10 .* denoiser\.heads=4"):
        build_transformer("independent", width=10, heads=4)
