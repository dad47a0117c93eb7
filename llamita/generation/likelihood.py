"""How likely a model finds a text after another."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.text.tokenizer import Tokenizer

Ids = Sequence[int]

_CHUNK_VALUES = 1 << 24  # logits at a time


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a context, as a text that begins as the tokenizer says, and of what follows it.

    Both are encoded together and cut where the context alone ends; spaces at its end go to the continuation, whose
    first token they mostly are part of. Where a continuation melts into the last token of its context ("on", "ce"),
    that token is scored, too. UserError where there is nothing to begin from: no BOS, and no context.
    """
    kept = context.rstrip()
    ids = tokenizer.encode(kept) if kept else []
    opening = tokenizer.opening(ids)
    before = opening + ids
    whole = opening + tokenizer.encode(context + continuation)
    if not before:
        raise UserError("the context is empty, and this tokenizer has no BOS to start from: give a context")
    if continuation and len(whole) <= len(before):
        shared = next((at for at, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other), 0)
        if shared == 0:
            raise UserError(f"{context!r} and {continuation!r} make one token: give a context that ends before it")
        return whole[:shared], whole[shared:]
    return before, whole[len(before) :]


def windows(ids: Ids, first: int, size: int) -> Iterator[tuple[list[int], list[int]]]:
    """A text of any length as pairs of context and continuation: each id once, after as many as there is room for.

    `first` stands before the text; a pair holds at most `size` ids and the one to predict last. The windows of
    lm-evaluation-harness: all of them are full but the first, if the text is longer than one.
    """
    text = [first, *ids]
    for start in range(1, len(text), size):
        end = min(start + size, len(text))
        yield text[max(end - size - 1, 0) : start], text[start:end]


@torch.inference_mode()
def log_likelihoods(
    model: LLaMaTransformer, pairs: Sequence[tuple[Ids, Ids]], *, batch_size: int = 32
) -> list[tuple[float, bool]]:
    """The log-probability of each continuation's ids after its context's, in nats, and whether all are the likeliest.

    A context that doesn't fit is cut from the left; UserError for an empty one, for a continuation longer than
    max_seq_len, and for a model whose logits aren't numbers. An id that the model has no logit of is impossible.
    """
    limit = model.config.max_seq_len
    for before, after in pairs:
        if not before or len(after) > limit:
            raise UserError(
                f"{len(after)} ids after {len(before)}: give a context, and at most {limit} ids to score (max_seq_len)"
            )
    found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    # The longest first: what runs out of memory does so at once, and a batch has little padding.
    order = sorted((n for n, pair in enumerate(pairs) if pair[1]), key=lambda n: -sum(map(len, pairs[n])))
    for at in range(0, len(order), batch_size):
        some = order[at : at + batch_size]
        for number, result in zip(some, _batch(model, [pairs[n] for n in some]), strict=True):
            found[number] = result
    if any(math.isnan(nats) for nats, _ in found):
        raise UserError("the model's logits are not finite numbers: use an earlier checkpoint of it")
    return found


def _batch(model: LLaMaTransformer, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
    limit, device = model.config.max_seq_len, model.embeddings.weight.device
    rows = [[*before, *after][-limit - 1 :] for before, after in pairs]
    lengths = [len(after) for _, after in pairs]
    inputs = torch.zeros(len(rows), max(map(len, rows)) - 1, dtype=torch.long)
    asked = torch.zeros_like(inputs, dtype=torch.bool)
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        end = len(row) - 1
        # What follows a row's end is padding: no position sees a later one.
        inputs[number, :end] = torch.tensor(row[:-1])
        asked[number, end - length : end] = True
    targets = torch.tensor([one for _, after in pairs for one in after], device=device)
    hidden = model.hidden(inputs.to(device))[asked.to(device)]
    nats, likeliest = _scores(hidden, model.readout, targets)
    each = zip(nats.split(lengths), likeliest.split(lengths), strict=True)
    return [(float(some.double().sum()), bool(best.all())) for some, best in each]


def _scores(
    hidden: Float[Tensor, "ids n_embd"], table: Float[Tensor, "tokens n_embd"], targets: Int[Tensor, " ids"]
) -> tuple[Float[Tensor, " ids"], Int[Tensor, " ids"]]:
    """The log-probability of each target, and 1 where it is the likeliest id, without all logits at a time."""
    size = max(_CHUNK_VALUES // len(table), 1)
    nats, likeliest = [], []
    for states, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        scores = F.linear(states, table.to(states.dtype)).float().log_softmax(-1)
        there = wanted < len(table)
        chosen = scores.gather(1, wanted.masked_fill(~there, 0)[:, None])[:, 0]
        nats.append(chosen.masked_fill(~there, -torch.inf))
        likeliest.append((scores.argmax(-1) == wanted).long())
    return torch.cat(nats), torch.cat(likeliest)
