import pytest
import torch
from torch.nn import functional

from dof_lightning.networks.activation import Mish

DTYPES = {torch.float32: 1e-6, torch.float64: 1e-14}


def reference(x: torch.Tensor) -> torch.Tensor:
    return functional.mish(x.double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_mish_is_mish_at_every_size(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-80, 80, 100_001), torch.tensor([-1e4, 0.0, 1e4])]).to(dtype)
    torch.testing.assert_close(Mish()(x).double(), reference(x), rtol=DTYPES[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_its_gradient_is_mishs(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-30, 30, 10_001), torch.tensor([-1e4, 0.0, 1e4])]).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(functional.mish(exact).sum(), exact)
    (gradient,) = torch.autograd.grad(Mish()(x).sum(), x)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=2 * DTYPES[dtype])


def test_it_goes_through_functional_transforms() -> None:
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3)
    torch.testing.assert_close(torch.func.jacrev(Mish())(x), torch.func.jacrev(functional.mish)(x))
    torch.testing.assert_close(torch.func.vmap(Mish())(x), functional.mish(x))


def test_values_do_not_depend_on_whether_gradients_are_recorded() -> None:
    x = torch.randn(1_003, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Mish()(x), Mish()(x.clone().requires_grad_()))


def test_half_precision_is_torchs_own() -> None:
    x = torch.randn(101, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(Mish()(x), functional.mish(x))
