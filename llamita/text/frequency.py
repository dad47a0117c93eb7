"""How often each token occurs in a corpus."""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from llamita.text.shards import Corpus

COUNTED_TOKENS: Final = 10**9
_AT_ONCE: Final = 1 << 24


@lru_cache(maxsize=2)
def token_counts(corpus: Corpus) -> npt.NDArray[np.int64]:
    """How often each id occurs, among the first billion tokens of a longer corpus; shape (vocab_size,)."""
    counts = np.zeros(corpus.vocab_size, np.int64)
    left = COUNTED_TOKENS
    for shard in corpus.shards:
        for start in range(0, min(len(shard), left), _AT_ONCE):
            some = shard[start : min(start + _AT_ONCE, left)]
            # Ids that are none are told of where they are trained on.
            counts += np.bincount(some, minlength=corpus.vocab_size)[: corpus.vocab_size]
        left -= min(len(shard), left)
    counts.setflags(write=False)
    return counts
