"""What a model sees while it generates: the tokens so far, as many of them as it has room for."""

import copy
import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llamita.model.kv_cache import KVCache
from llamita.model.transformer import LLaMaTransformer

_ROOM = 4096  # tokens that there is memory for at first; as many as anybody may be asked for


class Context:
    """A batch that begins with the same tokens in every row, and the window of it that the model sees.

    When the window is full it goes on from its later half, which the model then reads anew.
    """

    def __init__(
        self,
        model: LLaMaTransformer,
        prompt_ids: Sequence[int],
        *,
        batch_size: int,
        max_new_tokens: int,
        use_cache: bool,
    ) -> None:
        self._model = model
        self._start = 0
        self._length = len(prompt_ids)
        weight, config = model.output_weight, model.config
        end = self._length + max_new_tokens
        room = min(end, self._length + _ROOM)
        self._tokens = torch.empty(batch_size, room, dtype=torch.long, device=weight.device)
        self._tokens[:, : self._length] = torch.tensor(prompt_ids, device=weight.device)
        self._cache: KVCache | None = None
        if use_cache:
            seen = dataclasses.replace(config, max_seq_len=min(config.max_seq_len, end))
            self._cache = KVCache(seen, batch_size, device=weight.device, dtype=weight.dtype)
            self._prefill(self._cache)

    @property
    def tokens(self) -> Int[Tensor, "batch seq"]:
        """All tokens so far, those included that the model doesn't see any more."""
        return self._tokens[:, : self._length]

    def append(self, ids: Int[Tensor, " batch"]) -> None:
        """Add a token to each row."""
        if self._length == self._tokens.shape[1]:
            self._tokens = torch.cat((self._tokens, torch.empty_like(self._tokens)), dim=1)
        self._tokens[:, self._length] = ids
        self._length += 1
        limit = self._model.config.max_seq_len
        if self._length - self._start > limit:
            self._start = self._length - max(limit // 2, 1)
            if self._cache is not None:
                self._cache.length = 0

    def next_logits(self) -> Float[Tensor, "batch vocab_size"]:
        """Logits of the token after the last one; with a cache, from the tokens that it doesn't hold yet."""
        seen = 0 if self._cache is None else self._cache.length
        hidden = self._model.hidden(self.tokens[:, self._start + seen :], self._cache)
        return F.linear(hidden[:, -1], self._model.readout)

    def _prefill(self, cache: KVCache) -> None:
        """Read all of the prompt but its last token, once for all rows."""
        known = self._length - 1
        if known == 0:
            return
        row = copy.copy(cache)
        row.keys, row.values = cache.keys[:, :1], cache.values[:, :1]
        self._model.hidden(self._tokens[:1, :known], row)
        for store in (cache.keys, cache.values):
            store[:, 1:, :known] = store[:, :1, :known]
        cache.advance(known)
