"""Cross entropy that leaves the gradient where the logits were: each is read from memory once, and written once."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # on a machine without a GPU that Triton knows
    triton = None

_IGNORE = -100
# Fastest of 20 pairs with 16,384 to 131,072 columns on an H200 (docs/log.md, 2026-11-27).
_COLUMNS_AT_A_TIME, _WARPS = 8192, 8


def losses_into_gradients(
    logits: Float[Tensor, "rows columns"], targets: Int[Tensor, " rows"], readable: int
) -> Float[Tensor, " rows"]:
    """Cross entropy of each row in nats, in fp32; the row becomes its gradient with respect to its logits.

    Columns from `readable` on count as if they weren't there: their gradient is 0. So are loss and gradient of a
    row whose target is -100; any other target that is no column makes its loss NaN.
    """
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _losses_into_gradients[(logits.shape[0],)](
        logits,
        targets,
        losses,
        logits.stride(0),
        logits.shape[1],
        readable,
        IGNORE=_IGNORE,
        AT_A_TIME=_COLUMNS_AT_A_TIME,
        num_warps=_WARPS,
    )
    return losses


if triton is not None:

    @triton.jit
    def _losses_into_gradients(
        logits,
        targets,
        losses,
        stride,
        columns,
        readable,
        IGNORE: tl.constexpr,
        AT_A_TIME: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        logits += row * stride
        highest = float("-inf")
        total = 0.0
        for start in range(0, readable, AT_A_TIME):
            at = start + tl.arange(0, AT_A_TIME)
            some = tl.load(logits + at, mask=at < readable, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(highest, tl.max(some))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(some - higher))
            highest = higher
        log_total = highest + tl.log(total)
        target = tl.load(targets + row)
        real = target != IGNORE
        inside = (target >= 0) & (target < readable)
        chosen = tl.load(logits + target, mask=inside, other=float("nan")).to(tl.float32)
        tl.store(losses + row, tl.where(real, log_total - chosen, 0.0))
        # No thread may write a gradient before all have read that logit.
        tl.debug_barrier()
        for start in range(0, columns, AT_A_TIME):
            at = start + tl.arange(0, AT_A_TIME)
            some = tl.load(logits + at, mask=at < readable, other=float("-inf")).to(tl.float32)
            gradient = tl.exp(some - log_total) - tl.where(at == target, 1.0, 0.0)
            tl.store(logits + at, tl.where(real, gradient, 0.0), mask=at < columns)
