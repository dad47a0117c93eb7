"""Rotary positions of queries and keys that lie side by side with the values, where one matrix product left them."""

from jaxtyping import Float
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # on a machine without a GPU that Triton knows
    triton = None

_ROWS, _WARPS = 32, 4  # of heads at a time


def rotate_joint(
    joint: Float[Tensor, "batch seq width"], cos: Float[Tensor, "seq half"], sin: Float[Tensor, "seq half"], heads: int
) -> None:
    """Turn the first so many heads of each position in place, by its angles."""
    batch, seq, width = joint.shape
    half = cos.shape[-1]
    turned = batch * seq * heads
    _rotate[(triton.cdiv(turned, _ROWS),)](
        joint,
        cos,
        sin,
        turned,
        seq,
        heads,
        width,
        HALF=half,
        PAIRS=triton.next_power_of_2(half),
        ROWS=_ROWS,
        num_warps=_WARPS,
    )


def joint_gradient(
    of_q: Float[Tensor, "batch seq heads dim"],
    of_k: Float[Tensor, "batch seq kv_heads dim"],
    of_v: Float[Tensor, "batch seq kv_heads dim"],
    cos: Float[Tensor, "seq half"],
    sin: Float[Tensor, "seq half"],
) -> Float[Tensor, "batch seq width"]:
    """The gradient before turning, side by side, of those of queries, keys and values after it."""
    of_q, of_k, of_v = of_q.contiguous(), of_k.contiguous(), of_v.contiguous()
    batch, seq, heads, dim = of_q.shape
    kv_heads = of_k.shape[2]
    rows = batch * seq * (heads + 2 * kv_heads)
    joint = of_q.new_empty(batch, seq, (heads + 2 * kv_heads) * dim)
    _joint_gradient[(triton.cdiv(rows, _ROWS),)](
        of_q,
        of_k,
        of_v,
        joint,
        cos,
        sin,
        rows,
        seq,
        heads,
        kv_heads,
        HALF=dim // 2,
        PAIRS=triton.next_power_of_2(dim // 2),
        ROWS=_ROWS,
        num_warps=_WARPS,
    )
    return joint


if triton is not None:

    @triton.jit
    def _rotate(
        joint, cos, sin, turned, seq, heads, width, HALF: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr
    ):
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        pair = tl.arange(0, PAIRS)[None, :]
        real = (row < turned) & (pair < HALF)
        position = row // heads
        first = joint + position * width + row % heads * (2 * HALF) + pair
        angle = position % seq * HALF + pair
        a = tl.load(first, mask=real, other=0.0).to(tl.float32)
        b = tl.load(first + HALF, mask=real, other=0.0).to(tl.float32)
        c = tl.load(cos + angle, mask=real, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=real, other=0.0).to(tl.float32)
        tl.store(first, a * c - b * s, mask=real)
        tl.store(first + HALF, b * c + a * s, mask=real)

    @triton.jit
    def _joint_gradient(
        of_q,
        of_k,
        of_v,
        joint,
        cos,
        sin,
        rows,
        seq,
        heads,
        kv_heads,
        HALF: tl.constexpr,
        PAIRS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        pair = tl.arange(0, PAIRS)[None, :]
        real = (row < rows) & (pair < HALF)
        position, head = row // (heads + 2 * kv_heads), row % (heads + 2 * kv_heads)
        is_q, is_v = head < heads, head >= heads + kv_heads
        # Each row is one head of one position, whose gradient is in one of three places.
        source_q = of_q + (position * heads + head) * (2 * HALF) + pair
        source_k = of_k + (position * kv_heads + head - heads) * (2 * HALF) + pair
        source_v = of_v + (position * kv_heads + head - heads - kv_heads) * (2 * HALF) + pair
        source = tl.where(is_q, source_q, tl.where(is_v, source_v, source_k))
        a = tl.load(source, mask=real, other=0.0).to(tl.float32)
        b = tl.load(source + HALF, mask=real, other=0.0).to(tl.float32)
        # Turned back, by the transpose of the rotation; values never turned.
        angle = position % seq * HALF + pair
        c = tl.load(cos + angle, mask=real & ~is_v, other=1.0).to(tl.float32)
        s = tl.load(sin + angle, mask=real & ~is_v, other=0.0).to(tl.float32)
        target = joint + row * (2 * HALF) + pair
        tl.store(target, a * c + b * s, mask=real)
        tl.store(target + HALF, b * c - a * s, mask=real)
