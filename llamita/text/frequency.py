"""How often each token occurs."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

COUNTED_TOKENS: Final = 10**9
_AT_ONCE: Final = 1 << 24


def count_tokens(shards: Iterable[npt.NDArray[Any]], vocab_size: int) -> npt.NDArray[np.int64]:
    """Occurrences of each id among the first billion tokens; shape (vocab_size,). Ids beyond aren't counted."""
    counts = np.zeros(vocab_size, np.int64)
    left = COUNTED_TOKENS
    for shard in shards:
        for start in range(0, min(len(shard), left), _AT_ONCE):
            some = shard[start : min(start + _AT_ONCE, left)]
            counts += np.bincount(some[some < vocab_size], minlength=vocab_size)
        left -= min(len(shard), left)
    return counts
