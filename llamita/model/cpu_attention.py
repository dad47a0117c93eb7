"""Attention for training on a CPU, whose flash kernel has a slow backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_SEQ = 1024  # as weights are kept, which grow with its square
_BLOCK, _BLOCKS = 64, 8  # queries at least, blocks at most


def kept_weights(seq: int) -> int:
    """Numbers that a head keeps for the backward pass of a window of so many positions."""
    return sum((end - begin) * end for begin, end in _blocks(seq)) if seq <= MAX_SEQ else 0


def _blocks(seq: int) -> list[tuple[int, int]]:
    size = max(-(-seq // _BLOCKS), _BLOCK)
    return [(begin, min(begin + size, seq)) for begin in range(0, seq, size)]


class CpuAttention(torch.autograd.Function):
    """Plain batched products, of a block of queries at a time with the keys that aren't after it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Of (batch, heads, seq, dim) each; a mask (batch, 1, seq, seq) takes away keys that aren't after a query."""
        batch, heads, seq, dim = q.shape
        q, k, v = (x.reshape(batch * heads, seq, dim) for x in (q, k, v))
        mixed, kept = q.new_empty(q.shape), []
        for begin, end in _blocks(seq):
            later = q.new_full((end - begin, end), -torch.inf).triu(begin + 1)
            scores = torch.baddbmm(later, q[:, begin:end], k[:, :end].transpose(1, 2), alpha=dim**-0.5)
            if mask is not None:
                scores.view(batch, heads, *later.shape).masked_fill_(~mask[:, :, begin:end, :end], -torch.inf)
            weights = torch.softmax(scores, dim=-1)
            mixed[:, begin:end] = torch.bmm(weights, v[:, :end])
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        return mixed.view(batch, heads, seq, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        q, k, v, *kept = ctx.saved_tensors
        grad, shape = gradients[0].reshape(q.shape), gradients[0].shape
        grad_q = q.new_empty(q.shape)
        grad_k, grad_v = q.new_zeros(q.shape), q.new_zeros(q.shape)
        scale = q.shape[-1] ** -0.5
        for weights in kept:
            end = weights.shape[2]
            block = slice(end - weights.shape[1], end)
            grad_v[:, :end].baddbmm_(weights.transpose(1, 2), grad[:, block])
            grad_weights = torch.bmm(grad[:, block], v[:, :end].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[:, block] = torch.bmm(grad_scores, k[:, :end])
            grad_k[:, :end].baddbmm_(grad_scores.transpose(1, 2), q[:, block], alpha=scale)
        return grad_q.mul_(scale).view(shape), grad_k.view(shape), grad_v.view(shape), None
