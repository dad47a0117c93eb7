"""Values in eight bits, as they lie and transposed: fp8 products want both factors along the dimension they add up."""

import torch
from jaxtyping import Float
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # on a machine without a GPU that Triton knows
    triton = None

_SIDE, _WARPS = 128, 8  # of a tile


def narrow(
    x: Float[Tensor, "rows columns"], scale: Float[Tensor, ""], dtype: torch.dtype
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "columns rows"]]:
    """x / scale in an fp8 dtype, and the transpose of that; what lies beyond its range becomes its end."""
    rows, columns = x.shape
    narrowed = torch.empty(rows, columns, dtype=dtype, device=x.device)
    transposed = torch.empty(columns, rows, dtype=dtype, device=x.device)
    grid = (triton.cdiv(rows, _SIDE), triton.cdiv(columns, _SIDE))
    _narrow[grid](
        x, scale, narrowed, transposed, rows, columns, MOST=torch.finfo(dtype).max, SIDE=_SIDE, num_warps=_WARPS
    )
    return narrowed, transposed


if triton is not None:

    @triton.jit
    def _narrow(x, scale, narrowed, transposed, rows, columns, MOST: tl.constexpr, SIDE: tl.constexpr):
        row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
        column = tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
        place = row[:, None] * columns + column[None, :]
        real = (row[:, None] < rows) & (column[None, :] < columns)
        value = tl.load(x + place, mask=real, other=0.0).to(tl.float32) / tl.load(scale)
        value = tl.minimum(tl.maximum(value, -MOST), MOST).to(narrowed.dtype.element_ty)
        tl.store(narrowed + place, value, mask=real)
        place = column[:, None] * rows + row[None, :]
        real = (column[:, None] < columns) & (row[None, :] < rows)
        tl.store(transposed + place, tl.trans(value), mask=real)
