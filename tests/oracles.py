"""Slow and plain counterparts of what llamita computes quickly: loops, complex numbers and Python floats."""

import math

import torch
from torch import Tensor


def attention_by_loops(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Softmax attention, one query and one key at a time, in float64.

    q: (batch, heads, seq, dim); k, v: (batch, kv_heads, total, dim), a kv head serving consecutive heads;
    allowed: (batch, seq, total), which keys each query sees.
    """
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, seq, dim = q.shape
    served = heads // k.shape[1]
    mixed = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            for i in range(seq):
                seen = [j for j in range(k.shape[2]) if allowed[b, i, j]]
                scores = [float((q[b, h, i] * k[b, h // served, j]).sum()) for j in seen]
                weights = [math.exp(score / math.sqrt(dim)) for score in scores]
                for weight, j in zip(weights, seen, strict=True):
                    mixed[b, h, i] += weight / math.fsum(weights) * v[b, h // served, j]
    return mixed


def rope_by_complex_numbers(x: Tensor, frequencies: Tensor, positions: Tensor) -> Tensor:
    """Each pair of coordinates (i, i + dim / 2) as one complex number, times e^(i position frequency).

    x: (batch, seq, heads, dim); frequencies: (dim / 2,) radians a position; positions: (seq,).
    """
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    angles = positions.double()[:, None, None] * frequencies.double()  # (seq, 1, dim / 2)
    turned = pairs * torch.exp(1j * angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


def rms_norm_plainly(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x over the root of its mean square, times the gain."""
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def cross_entropy_in_python(logits: Tensor, targets: Tensor, ignore: int) -> float:
    """Sum of -log softmax(logits)[target] over the targets that aren't `ignore`.

    logits: (tokens, vocab_size); targets: (tokens,).
    """
    losses = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if target != ignore:
            highest = max(row)
            total = math.fsum(math.exp(logit - highest) for logit in row)
            losses.append(highest + math.log(total) - row[target])
    return math.fsum(losses)
