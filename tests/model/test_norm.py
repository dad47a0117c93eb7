import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from llamita.model.norm import RMSNorm
from tests.oracles import rms_norm_plainly


def norm_and_input(dim: int = 24, seed: int = 0) -> tuple[RMSNorm, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    norm = RMSNorm(dim, eps=1e-5)
    nn.init.normal_(norm.weight, 1.0, 0.3, generator=generator)
    return norm, torch.randn(2, 5, dim, generator=generator)


@pytest.mark.parametrize("learning", [True, False])
def test_norm_equals_its_formula(learning: bool) -> None:
    norm, x = norm_and_input()
    torch.testing.assert_close(norm(x.requires_grad_(learning)), rms_norm_plainly(x, norm.weight, 1e-5))


def test_gradients_of_norm_are_those_of_its_formula() -> None:
    norm, x = norm_and_input(dim=5)
    norm = norm.double()

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        normed: Tensor = functional_call(norm, {"weight": weight}, (x,))
        return normed

    assert torch.autograd.gradcheck(normed, (x.double().requires_grad_(), norm.weight))


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(1e-2, 1e6), learning=st.booleans())
def test_norm_ignores_the_scale_of_its_input(scale: float, learning: bool) -> None:
    norm, x = norm_and_input()
    norm.eps = 1e-12
    x = x.requires_grad_(learning)
    torch.testing.assert_close(norm(x * scale), norm(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learning", [True, False])
def test_the_norm_of_zeros_is_zeros(learning: bool) -> None:
    norm, _ = norm_and_input()
    x = torch.zeros(3, 24, requires_grad=learning)
    assert torch.equal(norm(x), torch.zeros(3, 24))


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_norm_rounds_once_and_at_the_end(dtype: torch.dtype, learning: bool) -> None:
    norm, x = norm_and_input(dim=64)
    nn.init.ones_(norm.weight)
    x = x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        normed = norm(x.requires_grad_(learning))
    exact = rms_norm_plainly(x.detach().double(), torch.ones(64), 1e-5)
    assert normed.dtype == torch.bfloat16
    assert (normed.double() - exact).norm() <= 1.05 * (exact.bfloat16().double() - exact).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_under_autocast_are_close_to_exact_ones(dtype: torch.dtype) -> None:
    norm, x = norm_and_input(dim=64)
    narrow = x.to(dtype).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    gain = norm.weight.detach().double().requires_grad_()
    target = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        normed = norm(narrow)
    (normed.float() * target).sum().backward()
    (rms_norm_plainly(wide, gain, 1e-5) * target).sum().backward()
    for ours, exact in ((narrow.grad, wide.grad), (norm.weight.grad, gain.grad)):
        assert ours is not None and exact is not None
        assert (ours.double() - exact).norm() < 0.01 * exact.norm()


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    norm, x = norm_and_input()
    (slope,) = torch.autograd.grad(norm(x.requires_grad_()).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
