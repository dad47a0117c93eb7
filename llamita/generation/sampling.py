"""Logits to the next token: what may be drawn, and the draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llamita.errors import UserError

# A nucleus rarely holds more tokens, and finding the largest few is far cheaper than sorting a vocabulary.
_NUCLEUS_CANDIDATES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is drawn: temperature 0 takes the likeliest one, None turns a filter off.

    UserError for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        k, p, least, penalty = self.top_k, self.top_p, self.min_p, self.repetition_penalty
        in_range = {
            "temperature": (0 <= self.temperature < math.inf, "0 (greedy) or more"),
            "top_k": (k is None or k >= 1, "1 or more; leave it out to keep every token"),
            "top_p": (p is None or 0 < p <= 1, "above 0 and at most 1"),
            "min_p": (least is None or 0 <= least <= 1, "between 0 and 1"),
            "repetition_penalty": (
                penalty is None or 0 < penalty < math.inf,
                "above 0; 1 changes nothing, more discourages repetition",
            ),
        }
        for name, (holds, wanted) in in_range.items():
            if not holds:
                raise UserError(f"{name} is {getattr(self, name)}: it must be {wanted}")

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0


def next_ids(
    logits: Float[Tensor, "batch vocab_size"],
    previous: Int[Tensor, "batch seq"],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    forbidden: Int[Tensor, " ids"] | None = None,
) -> Int[Tensor, " batch"]:
    """The next token of each row, drawn with the generator of that row alone.

    The draw is the largest of score + Gumbel noise (arXiv 1411.0030): a rounding error in the scores changes
    it only where two candidates tie, while it would shift every later step of a cumulative distribution.
    """
    scores = filtered(logits, previous, sampling, forbidden)
    if sampling.greedy:
        return scores.argmax(-1)
    noise = torch.empty_like(scores)
    for row, generator in zip(noise, generators, strict=True):
        row.uniform_(generator=generator)
    return (scores - noise.log_().neg_().log_()).argmax(-1)


def filtered(
    logits: Float[Tensor, "batch vocab_size"],
    previous: Int[Tensor, "batch seq"],
    sampling: Sampling,
    forbidden: Int[Tensor, " ids"] | None = None,
) -> Float[Tensor, "batch vocab_size"]:
    """Scores whose softmax is the distribution to draw from, -inf for what a filter took away.

    Filters work one after another in the order of transformers: repetition penalty over the `previous` ids,
    temperature, top-k, top-p, min-p. Forbidden ids go first, so that they count in none of them.
    """
    scores = logits.float()
    if forbidden is not None:
        scores = scores.index_fill(-1, forbidden, -torch.inf)
    if sampling.repetition_penalty is not None:
        scores = penalize(scores, previous, sampling.repetition_penalty)
    if sampling.greedy:
        return scores
    if sampling.temperature != 1:
        # Relative to the largest: a tiny temperature must not turn several scores into inf.
        scores = (scores - scores.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p is not None:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        scores = keep_min_p(scores, sampling.min_p)
    return scores


def penalize(
    scores: Float[Tensor, "batch vocab_size"], previous: Int[Tensor, "batch seq"], penalty: float
) -> Float[Tensor, "batch vocab_size"]:
    """Scores with those of previous ids divided by the penalty, or times it below zero (arXiv 1909.05858)."""
    repeated = scores.gather(-1, previous)
    repeated = torch.where(repeated < 0, repeated * penalty, repeated / penalty)
    return scores.scatter(-1, previous, repeated)


def keep_top_k(scores: Float[Tensor, "batch vocab_size"], k: int) -> Float[Tensor, "batch vocab_size"]:
    """The k largest scores, with all that equal the last of them (arXiv 1805.04833)."""
    smallest = scores.topk(min(k, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(scores < smallest, -torch.inf)


def keep_top_p(scores: Float[Tensor, "batch vocab_size"], p: float) -> Float[Tensor, "batch vocab_size"]:
    """The fewest tokens that together have probability p, and equals of the last (arXiv 1904.09751)."""
    if p == 1:
        return scores
    total = scores.logsumexp(-1, keepdim=True)
    largest = scores.topk(min(_NUCLEUS_CANDIDATES, scores.shape[-1])).values
    mass = (largest - total).exp().cumsum(-1)
    if mass[:, -1].min() < p:
        largest = scores.sort(descending=True).values
        mass = (largest - total).exp().cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    return scores.masked_fill(scores < largest.gather(-1, last), -torch.inf)


def keep_min_p(scores: Float[Tensor, "batch vocab_size"], p: float) -> Float[Tensor, "batch vocab_size"]:
    """The scores of at least p times the largest one's probability (arXiv 2407.01082)."""
    if p == 0:
        return scores
    return scores.masked_fill(scores < scores.amax(-1, keepdim=True) + math.log(p), -torch.inf)
