"""Faster engines for byte-level BPE, used where they are installed and give the same ids."""

import importlib
import json
import os
import sys
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from llamita.text.byte_level import BYTE_SYMBOLS, token_bytes
from llamita.text.splitting import LLAMA3_PATTERN

Ids = npt.NDArray[np.uint32]
Encode = Callable[[list[str]], list[Ids]]

# Characters from which on another engine may pay, and how many of them prove it.
_WORTHWHILE: Final = 1_000_000
_PROOF: Final = 500_000
# An engine remembers every word that it met: up to 7 bytes of memory for a byte of text without repetition.
_FORGET_AFTER: Final = 256_000_000
# The engines' Unicode tables agree on what was assigned up to here (docs/log.md).
_UNICODE: Final = 16


class FastestEngine:
    """Encodes as a backend does, by the fastest engine that is installed and gives the same ids.

    others: whether the backend is byte-level BPE with Llama 3's pattern, so that another engine may do. It does if the
    vocabulary is one that engines can't read in two ways, and if it gives the same ids for a sample of the first
    million characters. What it fails at, and characters that are newer than the engines, the backend does itself.
    """

    def __init__(self, backend: Backend, *, others: bool) -> None:
        self._backend = backend
        self._use("tokenizers", None)
        self._decided, self._met, self._characters = not others, list[str](), 0

    def __call__(self, texts: list[str]) -> list[Ids]:
        """Ids of each text; UnicodeEncodeError if one has a lone surrogate."""
        if not self._decided:
            self._met += texts
            self._characters += sum(map(len, texts))
            if self._characters >= _WORTHWHILE:
                met, self._met, self._decided = self._met, [], True
                self._decide(met)
        for text in texts:
            text.encode()  # some engines would replace a lone surrogate
        return self._plain(texts) if self._make is None else self._fast(texts)

    def _use(self, name: str, make: Callable[[], Encode] | None) -> None:
        self.name, self._make = name, make
        self._encode: Encode | None = None
        self._since_made = 0

    def _plain(self, texts: list[str]) -> list[Ids]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def _fast(self, texts: list[str]) -> list[Ids]:
        known = [not has_newer_character(text) for text in texts]
        try:
            found = self._engine()([text for text, fits in zip(texts, known, strict=True) if fits])
            if len(found) != sum(known):
                raise ValueError(f"{len(found)} texts of {sum(known)}")
        except BaseException as error:
            if not _is_failure(error):
                raise
            self._use("tokenizers", None)
            return self._plain(texts)
        self._since_made += sum(map(len, texts))
        quick = iter(found)
        slow = iter(self._plain([text for text, fits in zip(texts, known, strict=True) if not fits]))
        return [next(quick if fits else slow) for fits in known]

    def _engine(self) -> Encode:
        if self._encode is None or self._since_made > _FORGET_AFTER:
            assert self._make is not None
            self._encode, self._since_made = self._make(), 0
        return self._encode

    def _decide(self, met: list[str]) -> None:
        definition = json.loads(self._backend.to_str())
        if not is_unambiguous(definition) or int(unicodedata.unidata_version.split(".")[0]) > _UNICODE:
            return
        sample = met[:: max(self._characters // _PROOF, 1)]
        expected = self._plain(sample)
        for name, make in (("gigatoken", _gigatoken), ("tiktoken", _tiktoken)):
            self._use(name, partial(make, definition))
            found = self._fast(sample)
            if self._make is not None and all(map(np.array_equal, found, expected)):
                return
        self._use("tokenizers", None)


def is_unambiguous(definition: dict[str, Any]) -> bool:
    """Whether a vocabulary is the 256 bytes and what its merges make of them, numbered in the order of merges."""
    model = definition["model"]
    words: dict[str, int] = model["vocab"]
    made = list(dict.fromkeys(left + right for left, right in model["merges"]))
    numbers = [words.get(token, -1) for token in made]
    return (
        not any(model.get(name) for name in ("dropout", "byte_fallback", "unk_token", "continuing_subword_prefix"))
        and not model.get("end_of_word_suffix")
        and all(token["special"] for token in definition["added_tokens"])
        and words.keys() == {*BYTE_SYMBOLS, *made}
        and len(set(words.values())) == len(words)
        and numbers == sorted(numbers)
        and max((words[symbol] for symbol in BYTE_SYMBOLS), default=0) < min(numbers, default=sys.maxsize)
    )


def has_newer_character(text: str) -> bool:
    """Whether there is a character that isn't assigned in Python's Unicode: newer tables may call it a letter."""
    return not text.isascii() and bool(_unassigned()[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())


@cache
def _unassigned() -> npt.NDArray[np.bool_]:
    return np.array([unicodedata.category(chr(point)) == "Cn" for point in range(sys.maxunicode + 1)])


def _gigatoken(definition: dict[str, Any]) -> Encode:
    """https://github.com/marcelroed/gigatoken, which reads a tokenizer.json; without its special tokens."""
    ordinary = {**definition, "added_tokens": [], "post_processor": None}
    tokenizer = importlib.import_module("gigatoken").Tokenizer.from_json(json.dumps(ordinary))

    def encode(texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        found = tokenizer.encode_batch(texts).layout
        return np.split(np.asarray(found.content.data, np.uint32), np.asarray(found.offsets.data)[1:-1])

    return encode


def _tiktoken(definition: dict[str, Any]) -> Encode:
    """https://github.com/openai/tiktoken, which merges in the order of ids."""
    ranks = {token_bytes(token): number for token, number in definition["model"]["vocab"].items()}
    kind = importlib.import_module("tiktoken").Encoding
    tokenizer = kind("own", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(ids, np.uint32) for ids in tokenizer.encode_ordinary_batch(texts, num_threads=threads)]

    return encode


def _is_failure(error: BaseException) -> bool:
    """Whether an engine failed; a panic of Rust is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
