"""SwiGLU of gates and values that lie side by side, where one matrix product left them."""

import torch
from jaxtyping import Float
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # on a machine without a GPU that Triton knows
    triton = None

_AT_A_TIME, _WARPS = 2048, 8


def gated(joint: Float[Tensor, "*batch both"]) -> Float[Tensor, "*batch half"]:
    """silu(gate) * up, of rows that hold all gates, then all ups."""
    product = joint.new_empty(*joint.shape[:-1], joint.shape[-1] // 2)
    values = product.numel()
    _gated[(triton.cdiv(values, _AT_A_TIME),)](
        joint, product, values, product.shape[-1], AT_A_TIME=_AT_A_TIME, num_warps=_WARPS
    )
    return product


def gated_gradient(
    joint: Float[Tensor, "*batch both"], grad: Float[Tensor, "*batch half"]
) -> Float[Tensor, "*batch both"]:
    """The gradient with respect to `joint`, from the one with respect to `gated(joint)`."""
    grad, grad_joint = grad.contiguous(), torch.empty_like(joint)
    values = grad.numel()
    _gated_gradient[(triton.cdiv(values, _AT_A_TIME),)](
        joint, grad, grad_joint, values, grad.shape[-1], AT_A_TIME=_AT_A_TIME, num_warps=_WARPS
    )
    return grad_joint


if triton is not None:

    @triton.jit
    def _gated(joint, product, values, width, AT_A_TIME: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * AT_A_TIME + tl.arange(0, AT_A_TIME)
        real = at < values
        place = at + at // width * width  # of the gate; its up lies a width further
        gate = tl.load(joint + place, mask=real, other=0.0).to(tl.float32)
        up = tl.load(joint + place + width, mask=real, other=0.0).to(tl.float32)
        tl.store(product + at, gate * tl.sigmoid(gate) * up, mask=real)

    @triton.jit
    def _gated_gradient(joint, grad, grad_joint, values, width, AT_A_TIME: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * AT_A_TIME + tl.arange(0, AT_A_TIME)
        real = at < values
        place = at + at // width * width
        gate = tl.load(joint + place, mask=real, other=0.0).to(tl.float32)
        up = tl.load(joint + place + width, mask=real, other=0.0).to(tl.float32)
        given = tl.load(grad + at, mask=real, other=0.0).to(tl.float32)
        open_share = tl.sigmoid(gate)
        slope = open_share * (1.0 + gate * (1.0 - open_share))
        tl.store(grad_joint + place, given * up * slope, mask=real)
        tl.store(grad_joint + place + width, given * gate * open_share, mask=real)
