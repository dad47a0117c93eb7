"""Faster engines for byte-level BPE, used where they are installed and once they give the same ids."""

import importlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from llamita.text.byte_level import token_bytes
from llamita.text.splitting import LLAMA3_PATTERN

Ids = npt.NDArray[np.uint32]
Encode = Callable[[list[str]], list[Ids]]

# Characters encoded from which on another engine may pay, and how many of the next ones prove it.
_WORTHWHILE: Final = 1_000_000
_PROOF: Final = 500_000


class FastestEngine:
    """Encodes as a backend does, by the fastest engine that is installed and is proven to give the same ids.

    others: whether the backend is byte-level BPE with Llama 3's pattern, so that another engine may do. The proof is
    a sample of the batch with which a million characters are reached.
    """

    def __init__(self, backend: Backend, *, others: bool) -> None:
        self.name = "tokenizers"
        self._backend = backend
        self._encode: Encode = self._plain
        self._decided, self._seen = not others, 0

    def __call__(self, texts: list[str]) -> list[Ids]:
        """Ids of each text; UnicodeEncodeError if one has a lone surrogate."""
        if not texts:
            return []
        self._seen += sum(map(len, texts))
        if not self._decided and self._seen >= _WORTHWHILE:
            self._decided = True
            self._decide(texts)
        for text in texts:
            text.encode()  # some engines would replace a lone surrogate
        return self._encode(texts)

    def _plain(self, texts: list[str]) -> list[Ids]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def _decide(self, texts: list[str]) -> None:
        definition = json.loads(self._backend.to_str())
        if not all(token["special"] for token in definition["added_tokens"]):
            return  # those would be found in any text
        sample = texts[:: max(sum(map(len, texts)) // _PROOF, 1)]
        expected = self._plain(sample)
        for name, make in (("gigatoken", _gigatoken), ("tiktoken", _tiktoken)):
            # One that isn't there, or can't do this vocabulary, isn't used: nothing is lost but time.
            with suppress(Exception):
                encode = make(definition)
                if all(np.array_equal(one, other) for one, other in zip(encode(sample), expected, strict=True)):
                    self.name, self._encode = name, encode
                    return


def _gigatoken(definition: dict[str, Any]) -> Encode:
    """https://github.com/marcelroed/gigatoken, which reads a tokenizer.json; without its special tokens."""
    ordinary = {**definition, "added_tokens": [], "post_processor": None}
    tokenizer = importlib.import_module("gigatoken").Tokenizer.from_json(json.dumps(ordinary))

    def encode(texts: list[str]) -> list[Ids]:
        found = tokenizer.encode_batch(texts).layout
        return np.split(np.asarray(found.content.data, np.uint32), np.asarray(found.offsets.data)[1:-1])

    return encode


def _tiktoken(definition: dict[str, Any]) -> Encode:
    """https://github.com/openai/tiktoken, which merges in the order of ids, that of vocabularies learnt here."""
    ranks = {token_bytes(token): number for token, number in definition["model"]["vocab"].items()}
    kind = importlib.import_module("tiktoken").Encoding
    tokenizer = kind("own", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    threads = os.cpu_count() or 1

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(ids, np.uint32) for ids in tokenizer.encode_ordinary_batch(texts, num_threads=threads)]

    return encode
