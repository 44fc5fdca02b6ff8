"""Denoisers in which the agents meet: per-agent networks at first, no agent preferred, truthfully declared."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.errors import UserError
from dof_lightning.evaluation.igd import Effort, gauge_at
from dof_lightning.networks.attention_mlp import AttentionMLP
from dof_lightning.networks.attention_unet import AttentionUNetSettings
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.networks.temporal_unet import TemporalUNetSettings
from tests.fixtures.policy_models import cloning, generator, small_dof_policy
from tests.fixtures.small_spec import small_spec

B, N, T, O, A, C = 4, 3, 6, 4, 2, 2  # noqa: E741
UNET = {"channels": 8, "norm_groups": 4, "embedding": 8}
MLP = {"hidden": (16, 16)}
KINDS = {
    "unet": (AttentionUNetSettings, TemporalUNetSettings, UNET, (T, O)),
    "mlp": (partial(partial, AttentionMLP), partial(partial, MLPDenoiser), MLP, (A,)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_sharing = pytest.mark.parametrize("sharing", ["independent", "shared"])


def build(kind: str, sharing: str, gamma: float = 0.0, **changes: Any) -> Any:
    attending, _, sizes, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = small_spec(action_dims=(A,) * N)
        network = attending(sharing=sharing, **sizes, **changes)(spec, condition_dim=C).double()
    for meeting in network.meetings:
        meeting.gamma.data += gamma
    return network


def inputs(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(B, N, *KINDS[kind][3], generator=generator(), dtype=torch.float64)
    return x, torch.arange(1, B + 1), torch.randn(B, N, C, generator=generator(1), dtype=torch.float64)


@every_kind
@every_sharing
def test_before_training_it_is_the_network_of_each_agent(kind: str, sharing: str) -> None:
    network, (_, plain_kind, sizes, _) = build(kind, sharing), KINDS[kind]
    plain: Any = plain_kind(sharing=sharing, **sizes)(small_spec((A,) * N), condition_dim=C).double()
    missing = plain.load_state_dict(network.state_dict(), strict=False).missing_keys
    assert not missing
    assert torch.equal(network(*inputs(kind)), plain(*inputs(kind)))


@every_kind
@every_sharing
def test_agents_meet_and_it_says_so(kind: str, sharing: str) -> None:
    network, (x, k, condition) = build(kind, sharing, gamma=0.5), inputs(kind)
    before = network(x, k, condition)
    x[:, 1] += 1.0
    assert ((network(x, k, condition) - before).abs().flatten(2).amax(2) > 0).all()
    assert not network.local_execution
    with pytest.raises(TypeError, match="local_execution"):
        network.select_agent(0)


@every_kind
def test_agents_with_equal_ids_may_change_places(kind: str) -> None:
    network, (x, k, condition) = build(kind, "shared", gamma=0.5), inputs(kind)
    order = torch.tensor([2, 0, 1])
    assert not torch.allclose(network(x, k, condition)[:, order], network(x[:, order], k, condition[:, order]))
    network.agent_id[:] = network.agent_id[:1].clone()
    moved = network(x[:, order], k, condition[:, order])
    torch.testing.assert_close(network(x, k, condition)[:, order], moved, rtol=0, atol=1e-12)


@every_kind
@every_sharing
def test_every_parameter_gets_a_gradient(kind: str, sharing: str) -> None:
    network = build(kind, sharing, gamma=0.5, agent_embedding=4 if sharing == "shared" else None)
    network(*inputs(kind)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_kind
def test_heads_that_do_not_divide_a_width_are_named(kind: str) -> None:
    with pytest.raises(UserError, match=r"denoiser\.heads=3 must divide"):
        build(kind, "shared", heads=3)


def test_the_igd_gauge_sees_that_no_agent_has_a_chain_of_its_own() -> None:
    changes = cloning(denoiser=partial(AttentionMLP, hidden=(16,)), execution="centralized")
    policy = small_dof_policy(small_spec((A,) * N), **changes).policy()
    policy.denoiser.meetings[0].gamma.data += 1.0
    found = gauge_at(policy, torch.zeros(1, N, O), seed=0, effort=Effort(draws=32, permutations=10))
    assert found.pathwise_error is None
    assert found.jacobian_ratio > 0
    assert not found.passed
    with pytest.raises(UserError, match="denoiser: AttentionMLP cannot run locally"):
        small_dof_policy(small_spec((A,) * N), **(changes | {"execution": "decentralized"}))
