"""Which vectors lie near which: the first question to put to a table of embeddings."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def nearest(
    table: Float[Tensor, "vocab_size n_embd"], token_id: int, count: int, exclude: Collection[int] = ()
) -> list[tuple[int, float]]:
    """The `count` rows of the highest cosine to a row, with that cosine, nearest first; itself left out."""
    similarity = F.normalize(table.float(), dim=1) @ F.normalize(table[token_id].float(), dim=0)
    similarity[[token_id, *exclude]] = -torch.inf
    best = similarity.topk(min(count, len(similarity)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(index, value) for index, value in pairs if value > -torch.inf]
