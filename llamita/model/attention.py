"""Grouped-query self-attention: each position mixes the values of those before it."""

import functools
import importlib
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llamita.kernels import joint
from llamita.model import cpu_attention
from llamita.model.kv_cache import KVCache
from llamita.model.linear import Linear
from llamita.model.norm import RMSNorm
from llamita.model.rope import rotate

Rope = tuple[Float[Tensor, "seq half"], Float[Tensor, "seq half"]]
# Which positions each position may look at, or where in the flattened batch each document begins and the last ends.
Mask = Bool[Tensor, "batch 1 seq total"] | Int[Tensor, " starts"]

# torch's attention for documents one after another, once it was loaded.
varlen_attn: Any = None


class CausalSelfAttention(nn.Module):
    """Attention in which groups of query heads share a key and a value head (arXiv 2305.13245)."""

    def __init__(
        self, *, dim: int, n_heads: int, n_kv_heads: int, head_dim: int, qk_norm: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = Linear(dim, n_heads * head_dim)
        self.k_proj = Linear(dim, n_kv_heads * head_dim)
        self.v_proj = Linear(dim, n_kv_heads * head_dim)
        self.o_proj = Linear(n_heads * head_dim, dim)
        self.q_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        rope: Rope | None,
        *,
        layer: int = 0,
        cache: KVCache | None = None,
        mask: Mask | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Each position's update; `mask` says which positions it may look at (default: all before it)."""
        if joint.usable(x) and self.q_norm is None and rope is not None:
            weights = self.q_proj.weight, self.k_proj.weight, self.v_proj.weight
            q, k, v = joint.turned_heads(x, *weights, rope, fp8=self.q_proj.fp8)
        else:
            q, k, v = self._heads(x, rope)
        if cache is not None:
            k, v = cache.update(layer, k.to(cache.keys.dtype), v.to(cache.values.dtype))
        y = attend(q.transpose(1, 2), k.transpose(1, 2).to(q.dtype), v.transpose(1, 2).to(q.dtype), mask)
        update: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return update

    def _heads(self, x: Float[Tensor, "batch seq dim"], rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q, k, v


def attend(
    q: Float[Tensor, "batch heads seq dim"],
    k: Float[Tensor, "batch kv_heads total dim"],
    v: Float[Tensor, "batch kv_heads total dim"],
    mask: Mask | None = None,
) -> Float[Tensor, "batch heads seq dim"]:
    """softmax(q k^T / sqrt(dim)) v over no later positions, and of those before only where a mask allows."""
    group = q.shape[1] // k.shape[1]
    if mask is not None and mask.dim() == 1:
        return _within_documents(q, k, v, mask)
    if q.requires_grad and q.device.type == "cpu" and q.shape[2] == k.shape[2] <= cpu_attention.MAX_SEQ:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed: Tensor = cpu_attention.CpuAttention.apply(q, k, v, mask)
        return mixed
    # SDPA's own causal mask is aligned to the first key: right only where no cache came before.
    causal = mask is None and q.shape[2] == k.shape[2]
    if mask is None and not causal and q.shape[2] > 1:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        mask = mask.tril(k.shape[2] - q.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=group > 1)


def document_mask(documents: Int[Tensor, "batch seq"] | Int[Tensor, " starts"]) -> Mask:
    """Which positions each position may look at: those before it in the same document."""
    if documents.dim() == 1:
        return documents
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return torch.tril(same).unsqueeze(1)


def load_varlen() -> None:
    """Load what documents told by their starts need, and few others: its import takes seconds, for torch's compiler."""
    global varlen_attn
    if varlen_attn is None:
        attend = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        # Before torch 2.12 groups of heads needn't be announced, and can't be.
        grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(attend).parameters else {}
        varlen_attn = functools.partial(attend, **grouped)


def _within_documents(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """Attention of documents that lie one after another, by a kernel that skips what lies between them."""
    batch, heads, seq, dim = q.shape
    q, k, v = (x.transpose(1, 2).reshape(batch * seq, -1, dim) for x in (q, k, v))
    mixed = varlen_attn(q, k, v, starts, starts, seq, seq, window_size=(-1, 0))
    assert isinstance(mixed, Tensor)
    return mixed.view(batch, seq, heads, dim).transpose(1, 2)
