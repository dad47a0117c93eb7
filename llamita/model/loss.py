"""Next-token loss, from logits or straight from hidden states."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from llamita.kernels import cross_entropy
from llamita.kernels.probe import usable

IGNORE = -100

# Logits of so many values at a time stay in a CPU's cache.
_CHUNK_VALUES = 1 << 20
DEVICE_CHUNK_VALUES = 1 << 28
DEVICE_CHUNKS = 8  # at most
_ALIGNED = 128  # positions in a tile of a matrix product


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
    """next_token_loss of hidden @ weight[:rows].T, in chunks where that pays: the logits never exist as a whole."""
    rows = weight.shape[0] if rows is None else rows
    by_kernel = usable(hidden)
    on_cpu = not by_kernel and hidden.device.type == "cpu" and not torch.compiler.is_compiling()
    if not torch.is_grad_enabled():
        return token_losses(hidden, weight[:rows], targets).sum() / tokens
    if on_cpu or by_kernel:
        # A CPU computes no column that isn't read; a GPU's products want an even number of them.
        table = weight[:rows] if on_cpu else weight
        loss: Tensor = _ChunkedLoss.apply(hidden.flatten(0, -2), table, targets.flatten(), tokens, rows)
        return loss
    logits = F.linear(hidden, weight)
    if rows < weight.shape[0]:
        silent = torch.arange(weight.shape[0], device=logits.device) >= rows
        logits = logits.masked_fill(silent, -torch.inf)
    return next_token_loss(logits, targets, tokens=tokens)


@torch.no_grad()
def token_losses(
    hidden: Float[Tensor, "*batch n_embd"], weight: Float[Tensor, "vocab_size n_embd"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Cross entropy of each target in nats, 0 where it is IGNORE, without all logits at a time."""
    flat, wanted, table = hidden.flatten(0, -2), targets.flatten(), weight.to(hidden.dtype)
    rows = max((_CHUNK_VALUES if hidden.device.type == "cpu" else DEVICE_CHUNK_VALUES) // weight.shape[0], 1)
    chunks = zip(flat.split(rows), wanted.split(rows), strict=True)
    losses = [
        F.cross_entropy(F.linear(some, table).float(), ids, ignore_index=IGNORE, reduction="none")
        for some, ids in chunks
    ]
    return torch.cat(losses).view(targets.shape)


class _ChunkedLoss(torch.autograd.Function):
    """Loss and both gradients in one pass over the logits, a chunk of positions at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, tokens: int, rows: int) -> Tensor:
        table = weight.to(hidden.dtype)
        grad_weight = torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        on_gpu = usable(hidden)
        size = _device_chunk(len(hidden), len(table)) if on_gpu else max(_CHUNK_VALUES // len(table), 1)
        grads = []
        for some, wanted in zip(hidden.split(size), targets.split(size), strict=True):
            logits = some @ table.T
            if on_gpu:
                losses, grad_logits = cross_entropy.losses_into_gradients(logits, wanted, rows), logits
            else:
                losses, grad_logits = _losses_and_gradients(logits, wanted)
            total += losses.sum()
            grads.append(grad_logits @ table)
            grad_weight += grad_logits.T @ some
        ctx.save_for_backward(torch.cat(grads), grad_weight)
        ctx.tokens = tokens
        return total / tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = gradients[0] / ctx.tokens
        return (grad_hidden * scale).to(grad_hidden.dtype), grad_weight * scale, None, None, None


def _device_chunk(positions: int, columns: int) -> int:
    """Positions whose logits a GPU computes at a time; not too few, for a chunk adds to all of the table's gradient."""
    chunks = min(-(-positions * columns // DEVICE_CHUNK_VALUES), DEVICE_CHUNKS)
    return -(-positions // (chunks * _ALIGNED)) * _ALIGNED


def _losses_and_gradients(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of each row, and its gradient with respect to the logits."""
    targets = targets.unsqueeze(1)
    real = (targets != IGNORE).float()
    probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
    chosen = targets.masked_fill(targets == IGNORE, 0)
    # The log of the partition function through the likeliest token, whose probability never underflows.
    log_total = logits.amax(1, keepdim=True) - probability.amax(1, keepdim=True).log()
    losses = (log_total - logits.gather(1, chosen)) * real
    gradient = probability.scatter_add_(1, chosen, torch.full_like(real, -1.0))
    if not real.all():
        gradient.mul_(real)
    return losses, gradient.to(logits.dtype)
