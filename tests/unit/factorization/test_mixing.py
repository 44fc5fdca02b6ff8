"""Factorisations that mix the agents: the inputs each depends on, and those it refuses."""

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.factorization.base import Factorization
from dof_lightning.seeding import make_generator
from tests.fixtures.small_spec import small_spec

N, B, D, OBSERVATION = 3, 16, 2, 4
RESIDUAL = [noise.Attention, data.Attention]
WITHOUT_LOCAL_FORM = [noise.Attention, data.Attention, noise.QMix]
ALL = [noise.DecAttention, *WITHOUT_LOCAL_FORM]


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(*shape, generator=make_generator("mixing", key))


def build(factory: type) -> Factorization:
    """Builds a factorisation with weights away from their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Factorization = factory(small_spec())
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def agents_jacobian(made: Factorization, condition: Tensor | None) -> Tensor:
    """The Jacobian `[N, D, N, D]` of the joint quantity of one row."""
    return jacrev(lambda parts: made.join(parts[None], condition)[0])(normal(N, D))


@pytest.mark.parametrize("shape", [(B, N, D), (B, N, 4, D)])
@pytest.mark.parametrize("factory", ALL)
def test_shapes_are_kept_and_rows_stay_apart(factory: type, shape: tuple[int, ...]) -> None:
    made, parts, condition = build(factory), normal(*shape), normal(B, N, OBSERVATION, key="condition")
    joint = made.join(parts, condition)
    assert joint.shape == parts.shape
    torch.testing.assert_close(made.join(parts[:1], condition[:1]), joint[:1])


@pytest.mark.parametrize("factory", ALL)
def test_the_joint_quantity_of_an_agent_depends_on_the_others_and_the_flags_say_so(factory: type) -> None:
    made = build(factory)
    size = agents_jacobian(made, normal(1, N, OBSERVATION, key="condition")).abs().amax((1, 3))
    assert (size > 1e-4).all()
    assert not made.satisfies_igd
    assert not made.invertible
    with pytest.raises(TypeError, match="no inverse"):
        made.split(normal(B, N, D))


@pytest.mark.parametrize("factory", WITHOUT_LOCAL_FORM)
def test_what_no_agent_can_run_alone_refuses_to(factory: type) -> None:
    made = build(factory)
    assert not made.local_execution
    for refused in (lambda: made.local(normal(B, N, D)), lambda: made.select_agent(0)):
        with pytest.raises(TypeError, match="local_execution"):
            refused()


@pytest.mark.parametrize("factory", RESIDUAL)
def test_attention_starts_as_concatenation(factory: type) -> None:
    parts = normal(B, N, D)
    assert torch.equal(factory(small_spec()).join(parts), parts)


@pytest.mark.parametrize("factory", [*RESIDUAL, noise.DecAttention])
def test_attention_knows_agents_by_their_identity_only(factory: type) -> None:
    made, parts, order = build(factory), normal(B, N, D), torch.tensor([2, 0, 1])
    as_they_are = made.join(parts[:, order])
    with torch.no_grad():
        made.attention.identity.copy_(made.attention.identity[order])
    moved = made.join(parts[:, order])
    assert not torch.allclose(as_they_are, moved, atol=1e-3)
    with torch.no_grad():
        made.attention.identity.copy_(made.attention.identity[order.argsort()])
    torch.testing.assert_close(moved, made.join(parts)[:, order])


def test_dec_attention_runs_alone_but_not_what_was_trained() -> None:
    made, parts = build(noise.DecAttention), normal(B, N, D)
    everybody = made.local(parts)
    jacobian = jacrev(lambda x: made.local(x[None])[0])(parts[0]).abs().amax((1, 3))
    assert torch.equal(jacobian > 0, torch.eye(N, dtype=torch.bool))
    assert (made.join(parts) - everybody).abs().max() > 1e-2
    for i in range(N):
        torch.testing.assert_close(made.select_agent(i).local(parts[:, i : i + 1]), everybody[:, i : i + 1])


def test_qmix_is_monotone_in_every_agents_noise_and_its_weights_come_from_the_condition() -> None:
    made, condition = build(noise.QMix), normal(1, N, OBSERVATION, key="condition")
    jacobian = agents_jacobian(made, condition)
    for entry in range(D):
        assert (jacobian[:, entry, :, entry] > 0).all()
        assert (jacobian[:, entry, :, 1 - entry] == 0).all()
    assert not torch.allclose(jacobian, agents_jacobian(made, condition + 1))


def test_qmix_refuses_a_condition_that_is_not_the_agents_observations() -> None:
    with pytest.raises(UserError, match=r"noise_factorization=qmix .* conditions on 6"):
        build(noise.QMix).join(normal(B, N, D), normal(B, N, 2))
