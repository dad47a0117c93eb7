"""A matrix product and both its gradients, in the precision of its input or in fp8."""

import torch
from jaxtyping import Float
from torch import Tensor

from llamita.kernels.narrow import narrow

# More precision for what flows forward, more range for what flows back (arXiv 2209.05433).
_FORWARD, _BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
_SMALLEST = 1e-12

Kept = tuple[Tensor, ...]  # what the gradients need: input and table, or their fp8 transposes each with its scale


def multiply(x: Float[Tensor, "*batch in"], table: Float[Tensor, "out in"], fp8: bool) -> tuple[Tensor, Kept]:
    """x @ table.T, and what `gradients` needs of it; both in one dtype."""
    if not fp8:
        return x @ table.T, (x, table)
    narrow_x, transposed_x, scale_x = _narrow(x.flatten(0, -2), _FORWARD)
    narrow_table, transposed_table, scale_table = _narrow(table, _FORWARD)
    product = torch._scaled_mm(
        narrow_x, narrow_table.T, scale_a=scale_x, scale_b=scale_table, out_dtype=x.dtype, use_fast_accum=True
    )
    return product.view(*x.shape[:-1], len(table)), (transposed_x, scale_x, transposed_table, scale_table)


def gradients(grad: Float[Tensor, "*batch out"], kept: Kept) -> tuple[Tensor, Tensor]:
    """The gradients with respect to x, and to the table in fp32."""
    rows = grad.flatten(0, -2)
    if len(kept) == 2:
        x, table = kept
        return grad @ table, _transposed_product(rows, x.flatten(0, -2))
    x, scale_x, table, scale_table = kept
    narrow_grad, transposed, scale = _narrow(rows, _BACKWARD)
    grad_x = torch._scaled_mm(narrow_grad, table.T, scale_a=scale, scale_b=scale_table, out_dtype=grad.dtype)
    grad_table = torch._scaled_mm(transposed, x.T, scale_a=scale, scale_b=scale_x, out_dtype=torch.float32)
    return grad_x.view(*grad.shape[:-1], len(table)), grad_table


def _transposed_product(grad: Tensor, x: Tensor) -> Tensor:
    if grad.is_cuda and grad.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(grad.T, x, out_dtype=torch.float32)
    return (grad.T @ x).float()


def _narrow(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x in fp8, its transpose, and what both are to be multiplied by: their largest value is the largest there is."""
    scale = x.abs().amax().float().clamp(min=_SMALLEST) / torch.finfo(dtype).max
    return *narrow(x.contiguous(), scale, dtype), scale
