"""Products of one input with several weights computed as one, and what follows them, for training on a GPU."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from llamita.kernels import probe, products, rotary, swiglu


def usable(x: Tensor) -> bool:
    """Whether x is trained with where the functions below run."""
    return probe.usable(x) and torch.is_grad_enabled()


def product(
    x: Float[Tensor, "*batch in"], weight: Float[Tensor, "out in"], *, fp8: bool
) -> Float[Tensor, "*batch out"]:
    """x @ weight.T"""
    found: Tensor = _Product.apply(x, weight, fp8)
    return found


def gated(
    x: Float[Tensor, "*batch dim"], gate: Float[Tensor, "hidden dim"], up: Float[Tensor, "hidden dim"], *, fp8: bool
) -> Float[Tensor, "*batch hidden"]:
    """silu(x @ gate.T) * (x @ up.T)"""
    found: Tensor = _GatedProduct.apply(x, gate, up, fp8)
    return found


def turned_heads(
    x: Float[Tensor, "batch seq dim"],
    q: Float[Tensor, "queries dim"],
    k: Float[Tensor, "keys dim"],
    v: Float[Tensor, "keys dim"],
    rope: tuple[Float[Tensor, "seq half"], Float[Tensor, "seq half"]],
    *,
    fp8: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of x, each (batch, seq, heads, head_dim), the former two rotated."""
    found: tuple[Tensor, Tensor, Tensor] = _TurnedHeads.apply(x, q, k, v, *rope, fp8)
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, fp8: bool) -> Tensor:
        product, kept = products.multiply(x, weight.to(x.dtype), fp8)
        ctx.save_for_backward(*kept)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *products.gradients(grads[0], ctx.saved_tensors), None


class _GatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, fp8: bool) -> Tensor:
        joint, kept = products.multiply(x, torch.cat([gate, up]).to(x.dtype), fp8)
        ctx.save_for_backward(joint, *kept)
        return swiglu.gated(joint)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        joint, *kept = ctx.saved_tensors
        grad_x, grad_table = products.gradients(swiglu.gated_gradient(joint, grads[0]), tuple(kept))
        return grad_x, *grad_table.chunk(2), None


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, fp8: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        dim, sizes = 2 * cos.shape[-1], [len(q), len(k), len(v)]
        joint, kept = products.multiply(x, torch.cat([q, k, v]).to(x.dtype), fp8)
        rotary.rotate_joint(joint, cos, sin, (len(q) + len(k)) // dim)
        ctx.save_for_backward(cos, sin, *kept)
        ctx.sizes = sizes
        of_q, of_k, of_v = (some.unflatten(-1, (-1, dim)) for some in joint.split(sizes, dim=-1))
        return of_q, of_k, of_v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, *kept = ctx.saved_tensors
        of_q, of_k, of_v = grads
        grad_x, grad_table = products.gradients(rotary.joint_gradient(of_q, of_k, of_v, cos, sin), tuple(kept))
        return grad_x, *grad_table.split(ctx.sizes), None, None, None
