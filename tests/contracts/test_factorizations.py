"""The contract of every factorisation and value mixer in `conf/`."""

import pytest
import torch

from dof_lightning.config import catalog
from dof_lightning.config import compose as configuration
from dof_lightning.factorization.base import Factorization, ValueMixer
from dof_lightning.factorization.contract import broken_promise, shrinks_errors
from tests.fixtures.synthetic import synthetic_spec

FACTORIZATIONS = [
    (group, option) for group in ("noise_factorization", "data_factorization") for option in catalog.options(group)
]


def _part(group: str, option: str) -> object:
    return configuration.build(configuration.compose(["experiment=mpe_spread_random", f"{group}={option}"])[group])


def _factorization(group: str, option: str) -> Factorization:
    factorization = _part(group, option)(synthetic_spec())  # type: ignore[operator]
    with torch.no_grad():
        for parameter in factorization.parameters():  # away from the identity that most start as
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return factorization


def _parts(*tail: int) -> torch.Tensor:
    return torch.randn(5, synthetic_spec().n_agents, *tail, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("group", "option"), FACTORIZATIONS)
@pytest.mark.parametrize("tail", [(2,), (4, 3)])
def test_split_undoes_join_and_shapes_are_kept(group: str, option: str, tail: tuple[int, ...]) -> None:
    factorization, parts = _factorization(group, option), _parts(*tail)
    joint = factorization.join(parts)
    assert joint.shape == factorization.as_state(parts).shape == parts.shape
    torch.testing.assert_close(factorization.as_parts(factorization.as_state(parts)), parts)
    if factorization.local_execution:
        assert factorization.local(parts).shape == parts.shape
    if factorization.invertible:
        torch.testing.assert_close(factorization.split(joint), parts)
        return
    with pytest.raises(TypeError):  # a head on the predictions only: it needs no inverse, and is no factorisation
        factorization.split(joint)
    assert not factorization.satisfies_igd


@pytest.mark.parametrize(("group", "option"), FACTORIZATIONS)
def test_nothing_is_missing_that_training_would_ask_for(group: str, option: str) -> None:
    assert broken_promise(_factorization(group, option), _parts(2)[0]) is None


@pytest.mark.parametrize("option", catalog.options("noise_factorization"))
def test_no_f_can_shrink_every_agents_error(option: str) -> None:
    assert not shrinks_errors(_factorization("noise_factorization", option), _parts(2)[0])


@pytest.mark.parametrize(("group", "option"), FACTORIZATIONS)
def test_only_what_keeps_agents_apart_satisfies_igd(group: str, option: str) -> None:
    factorization, parts = _factorization(group, option), _parts(2)
    jacobian = torch.autograd.functional.jacobian(lambda x: factorization.join(x[None])[0], parts[0])
    crossed = jacobian.abs().sum(dim=(1, 3))
    apart = bool((crossed - torch.diag(crossed.diagonal()) == 0).all())
    assert factorization.satisfies_igd == apart


@pytest.mark.parametrize(("group", "option"), FACTORIZATIONS)
def test_local_uses_an_agents_own_part_only(group: str, option: str) -> None:
    factorization = _factorization(group, option)
    if not factorization.local_execution:
        for needs_others in (factorization.select_agent, factorization.local):
            with pytest.raises(TypeError):
                needs_others(_parts(2) if needs_others == factorization.local else 0)
        return
    parts = _parts(2)
    jacobian = torch.autograd.functional.jacobian(lambda x: factorization.local(x[None])[0], parts[0])
    crossed = jacobian.abs().sum(dim=(1, 3))
    assert bool((crossed.diagonal() > 0).all())
    assert bool((crossed - torch.diag(crossed.diagonal()) == 0).all())
    for agent in range(parts.shape[1]):
        mine = slice(agent, agent + 1)
        alone = factorization.select_agent(agent).local(parts[:, mine])
        # Element-wise maps agree to the last bit; a matrix product may round differently in another shape.
        tolerance = 0.0 if factorization.invertible else 1e-5
        torch.testing.assert_close(alone, factorization.local(parts)[:, mine], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("option", catalog.options("value_mixer"))
def test_mixers_mix_and_tell_the_truth_about_monotonicity(option: str) -> None:
    spec = synthetic_spec()
    mixer = _part("value_mixer", option)(spec, state_dim=6)  # type: ignore[operator]
    assert isinstance(mixer, ValueMixer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixer.parameters():  # far from the weights that training starts with
            parameter += 2 * torch.randn(parameter.shape, generator=generator)
    values = torch.randn(16, spec.n_agents, 1, generator=generator).requires_grad_()
    mixed = mixer(values, torch.randn(16, 6, generator=generator))
    assert mixed.shape == (16, 1)
    (gradient,) = torch.autograd.grad(mixed.sum(), values)
    assert mixer.satisfies_igm == bool((gradient >= 0).all())
    assert bool((gradient != 0).any(dim=0).all())
