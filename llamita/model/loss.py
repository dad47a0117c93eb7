"""Next-token loss, from logits or straight from hidden states."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100

# Logits of so many values at a time stay in a CPU's cache.
_CHUNK_VALUES = 1 << 20
_DEVICE_CHUNK_VALUES = 1 << 28


def next_token_loss(
    logits: Float[Tensor, "*batch vocab_size"], targets: Int[Tensor, "*batch"], *, tokens: int | None = None
) -> Float[Tensor, ""]:
    """Cross entropy in nats a token: summed, over `tokens` (default: the targets that aren't IGNORE)."""
    flat = targets.flatten()
    total = F.cross_entropy(logits.flatten(0, -2).float(), flat, ignore_index=IGNORE, reduction="sum")
    return total / (tokens if tokens is not None else (flat != IGNORE).sum())


def hidden_loss(
    hidden: Float[Tensor, "*batch n_embd"],
    weight: Float[Tensor, "vocab_size n_embd"],
    targets: Int[Tensor, "*batch"],
    *,
    tokens: int,
    rows: int | None = None,
) -> Float[Tensor, ""]:
    """next_token_loss of hidden @ weight[:rows].T; on a CPU in chunks, so that the logits never exist as a whole."""
    rows = weight.shape[0] if rows is None else rows
    if hidden.device.type != "cpu" or torch.compiler.is_compiling():
        logits = F.linear(hidden, weight)
        if rows < weight.shape[0]:
            # Kernels want an even number of columns, so the others are silenced, not left out.
            silent = torch.arange(weight.shape[0], device=logits.device) >= rows
            logits = logits.masked_fill(silent, -torch.inf)
        return next_token_loss(logits, targets, tokens=tokens)
    if rows < weight.shape[0]:
        weight = weight[:rows]
    if not torch.is_grad_enabled():
        # A Function isn't told so, and would compute gradients that nobody wants.
        hidden, weight = hidden.detach(), weight.detach()
    loss: Tensor = _ChunkedLoss.apply(hidden.flatten(0, -2), weight, targets.flatten(), tokens)
    return loss


@torch.no_grad()
def token_losses(
    hidden: Float[Tensor, "*batch n_embd"], weight: Float[Tensor, "vocab_size n_embd"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Cross entropy of each target in nats, 0 where it is IGNORE, without all logits at a time."""
    flat, wanted, table = hidden.flatten(0, -2), targets.flatten(), weight.to(hidden.dtype)
    rows = max((_CHUNK_VALUES if hidden.device.type == "cpu" else _DEVICE_CHUNK_VALUES) // weight.shape[0], 1)
    chunks = zip(flat.split(rows), wanted.split(rows), strict=True)
    losses = [
        F.cross_entropy(F.linear(some, table).float(), ids, ignore_index=IGNORE, reduction="none")
        for some, ids in chunks
    ]
    return torch.cat(losses).view(targets.shape)


class _ChunkedLoss(torch.autograd.Function):
    """Loss and both gradients in one pass over the logits, a chunk of rows at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, tokens: int) -> Tensor:
        table = weight.to(hidden.dtype)
        learning = any(ctx.needs_input_grad)
        grad_hidden = torch.empty_like(hidden) if learning else None
        grad_weight = torch.zeros_like(weight) if learning else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(_CHUNK_VALUES // weight.shape[0], 1)
        for start in range(0, hidden.shape[0], rows):
            some, wanted = hidden[start : start + rows], targets[start : start + rows, None]
            real = (wanted != IGNORE).float()
            logits = some @ table.T
            probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
            chosen = wanted.masked_fill(wanted == IGNORE, 0)
            # The log of the partition function through the likeliest token, whose probability never underflows.
            log_total = logits.amax(1, keepdim=True) - probability.amax(1, keepdim=True).log()
            total += ((log_total - logits.gather(1, chosen)) * real).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            grad_logits = probability.scatter_add_(1, chosen, torch.full_like(real, -1.0))
            if not real.all():
                grad_logits.mul_(real)
            grad_logits = grad_logits.to(hidden.dtype)
            torch.mm(grad_logits, table, out=grad_hidden[start : start + rows])
            grad_weight.add_(grad_logits.T @ some)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.tokens = tokens
        return total / tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = gradients[0] / ctx.tokens
        return grad_hidden * scale, grad_weight * scale, None, None
