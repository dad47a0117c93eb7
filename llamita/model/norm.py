"""RMSNorm: each vector divided by its root mean square, then scaled by a learnt gain."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llamita.model.precision import compute_dtype


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension (arXiv 1910.07467)."""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The normalised x, in the dtype that matrix products compute in."""
        dtype = compute_dtype(x)
        if x.device.type == "cpu" and x.requires_grad and not torch.compiler.is_compiling():
            normed: Tensor = _CpuRMSNorm.apply(x.to(self.weight.dtype), self.weight, self.eps, dtype)
            return normed
        return F.rms_norm(x.to(self.weight.dtype), (x.shape[-1],), self.weight, self.eps).to(dtype)


class _CpuRMSNorm(torch.autograd.Function):
    """The same with a third of the passes over memory: the CPU has no fused kernel (benchmarks/RESULTS.md)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        normed: Tensor = (unit * weight).to(dtype)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, weight = ctx.saved_tensors
        grad = gradients[0].to(unit.dtype)
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        along = (product @ weight).unsqueeze(-1).div_(-unit.shape[-1])
        grad_x = (grad * weight).addcmul_(unit, along).mul_(scale)
        return grad_x, grad_weight, None, None
