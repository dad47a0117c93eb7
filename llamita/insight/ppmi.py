"""Word vectors by counting: what a text tells of its words without any training, as a reference."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llamita.text.shards import Corpus, IntArray

# The most frequent tokens count as contexts; so many of them, on either side, keep the eigenproblem small.
_CONTEXTS = 1500
_TOKENS_AT_A_TIME = 4_000_000


def ppmi_vectors(
    corpus: Corpus, ids: list[int], *, dim: int, window: int = 4, max_tokens: int = 20_000_000
) -> Float[Tensor, "ids dim"]:
    """Vectors of some tokens from positive pointwise mutual information and a truncated SVD.

    Contexts to the left and to the right count apart, each 1 / distance, none across documents; contexts are
    smoothed by 0.75 and singular values enter by their root (Levy, Goldberg & Dagan 2015, Q15-1016).
    """
    read = min(corpus.tokens, max_tokens)
    often = np.bincount(corpus.read(0, read), minlength=corpus.vocab_size)
    contexts = np.argsort(-often, kind="stable")[: min(_CONTEXTS, int((often > 0).sum()))]
    counts = _count(corpus, read, np.asarray(ids), contexts, window)
    sides = torch.cat([_ppmi(torch.from_numpy(side)) for side in counts], dim=1)
    # Eigenvectors of the smaller product are the right singular vectors, the same on every machine but for signs.
    _, right = torch.linalg.eigh(sides.T @ sides)
    projected = sides @ right.flip(1)[:, : min(dim, right.shape[1])]
    scale = projected.norm(dim=0).clamp_min(1e-12).sqrt()
    vectors: Tensor = (projected / scale).float()
    return vectors


def _count(corpus: Corpus, read: int, ids: IntArray, contexts: IntArray, window: int) -> list[np.ndarray]:
    """Weighted counts of each context to the right and to the left of each id; shapes (ids, contexts)."""
    row, column = (np.full(corpus.vocab_size, -1, np.int64) for _ in range(2))
    row[ids], column[contexts] = np.arange(len(ids)), np.arange(len(contexts))
    size = len(ids) * len(contexts)
    sides = [np.zeros(size), np.zeros(size)]
    for start in range(0, read, _TOKENS_AT_A_TIME):
        tokens = corpus.read(start, min(start + _TOKENS_AT_A_TIME + window, read))
        places = np.arange(start, start + len(tokens))
        document = np.searchsorted(corpus.document_starts, places, side="right")
        for distance in range(1, window + 1):
            left, right = tokens[:-distance], tokens[distance:]
            same = document[:-distance] == document[distance:]
            # A pair that begins in the overlap is the next part's.
            same[_TOKENS_AT_A_TIME:] = False
            for side, word, context in ((0, left, right), (1, right, left)):
                kept = same & (row[word] >= 0) & (column[context] >= 0)
                cells = row[word[kept]] * len(contexts) + column[context[kept]]
                sides[side] += np.bincount(cells, minlength=size) / distance
    return [side.reshape(len(ids), len(contexts)) for side in sides]


def _ppmi(counts: Float[Tensor, "ids contexts"]) -> Float[Tensor, "ids contexts"]:
    chance = counts.sum(0) ** 0.75
    given = counts / counts.sum(1, keepdim=True).clamp_min(1e-12)
    information = (given / (chance / chance.sum()).clamp_min(1e-12)).clamp_min(1e-12).log()
    return information.clamp_min(0)
