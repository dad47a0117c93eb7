"""Faster engines for byte-level BPE, used where they are installed and give the same ids."""

import importlib
import json
import logging
import os
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from llamita.errors import UserError
from llamita.text.byte_level import BYTE_SYMBOLS, token_bytes
from llamita.text.splitting import LLAMA3_PATTERN

Ids = npt.NDArray[np.uint32]
Encode = Callable[[list[str]], list[Ids]]

_BATCH: Final = 4_000_000  # characters encoded in parallel; bounds the memory that this takes
# Characters that tell whether another engine may be used: with fewer it wouldn't pay.
_WORTHWHILE: Final = 1_000_000
# Bytes of text: an engine remembers every word, in up to 15 bytes of memory for a byte of text without repetition.
_FORGET_AFTER: Final = 64_000_000
# The engines' Unicode tables agree on what was assigned up to here (docs/log.md).
_UNICODE: Final = 16

_log = logging.getLogger(__name__)


class FastestEngine:
    """Encodes as a backend does, by the fastest engine that is installed and gives the same ids.

    others: whether the backend is byte-level BPE with Llama 3's pattern, so that another engine may do. It does if the
    vocabulary is one that it reads in the same way, and if it gives the same ids for the first million characters.
    What it fails at, and characters that are newer than the engines, the backend does itself.
    """

    def __init__(self, backend: Backend, *, others: bool) -> None:
        self._backend = backend
        self._other: _Engine | None = None
        self._met, self._characters, self._decided = list[tuple[str, Ids]](), 0, not others
        self._meeting = threading.Lock()

    def __call__(self, texts: list[str]) -> list[Ids]:
        """Ids of each text; UnicodeEncodeError if one has a lone surrogate."""
        sizes = list(map(_byte_length, texts))  # some engines would replace a lone surrogate
        first = [] if self._decided else self._meet(texts)
        other, rest, size = self._other, texts[len(first) :], sum(sizes[len(first) :])
        return first + (self._plain(rest) if other is None else self._fast(other, rest, size))

    @property
    def name(self) -> str:
        """The engine that encodes now."""
        other = self._other
        return "tokenizers" if other is None else other.name

    def forget(self) -> None:
        """Give back the memory that holds the words of earlier texts."""
        if (other := self._other) is not None:
            other.forget()

    def _plain(self, texts: list[str]) -> list[Ids]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def _fast(self, other: "_Engine", texts: list[str], size: int) -> list[Ids]:
        known = [not has_newer_character(text) for text in texts]
        try:
            found = other([text for text, fits in zip(texts, known, strict=True) if fits], size)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.warning("%s failed (%r): tokenizers encodes from here on", other.name, error)
            self._other = None
            return self._plain(texts)
        if all(known):
            return found
        quick = iter(found)
        slow = iter(self._plain([text for text, fits in zip(texts, known, strict=True) if not fits]))
        return [next(quick if fits else slow) for fits in known]

    def _meet(self, texts: list[str]) -> list[Ids]:
        """Ids of the first texts, as many as it takes to decide; of none while another thread is here."""
        if not self._meeting.acquire(blocking=False):
            return []
        try:
            if self._decided:
                return []
            before = accumulate(map(len, texts), initial=self._characters)
            first = [text for text, seen in zip(texts, before, strict=False) if seen < _WORTHWHILE]
            found = self._plain(first)
            self._met += [(text, ids) for text, ids in zip(first, found, strict=True) if text]
            self._characters += sum(map(len, first))
            if self._characters >= _WORTHWHILE:
                self._decide()
            return found
        finally:
            self._meeting.release()

    def _decide(self) -> None:
        """Use the first engine that nothing speaks against."""
        definition = self._backend.to_str()
        spec = json.loads(definition)
        other, objections = None, list[str]()
        for name, make, reads in (
            ("gigatoken", _gigatoken, is_unambiguous),
            ("tiktoken", _tiktoken, is_merged_by_ids),
        ):
            engine = _Engine(name, partial(make, definition))
            objection = self._difference(engine) if reads(spec) else "it might read this vocabulary otherwise"
            if objection is None:
                other = engine
                break
            objections.append(f"; not {name}: {objection}")
        self._other, self._met, self._decided = other, [], True
        _log.info("%s encodes%s", self.name, "".join(objections))

    def _difference(self, engine: "_Engine") -> str | None:
        """What speaks against an engine, by the texts that were met."""
        if int(unicodedata.unidata_version.split(".")[0]) > _UNICODE:
            return f"it doesn't know Unicode {unicodedata.unidata_version}"
        met = [(text, ids) for text, ids in self._met if not has_newer_character(text)]
        if not met:
            return "there was nothing to compare"
        texts = [text for text, _ in met]
        try:
            found = engine(texts, sum(map(_byte_length, texts)))
        except BaseException as error:
            if not is_failure(error):
                raise
            return repr(error)
        alike = all(np.array_equal(ours, ids) for ours, (_, ids) in zip(found, met, strict=True))
        return None if alike else "its ids differ"


class _Engine:
    """Another engine, made when it is needed and anew when it has remembered a lot."""

    def __init__(self, name: str, make: Callable[[], Encode]) -> None:
        self.name, self._make = name, make
        self.forget()

    def forget(self) -> None:
        """Give back the memory that holds words."""
        self._encode: Encode | None = None
        self._bytes = 0

    def __call__(self, texts: list[str], size: int) -> list[Ids]:
        """Ids of each text; size: how many bytes to count for them."""
        encode = self._encode
        if encode is None or self._bytes > _FORGET_AFTER:
            self._encode = encode = self._make()
            self._bytes = 0
        found = encode(texts)
        if len(found) != len(texts):
            raise ValueError(f"{len(found)} texts of {len(texts)}")
        self._bytes += size
        return found


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


def is_merged_by_ids(definition: dict[str, Any]) -> bool:
    """Whether it makes no difference to merge any neighbours that make a token, and the lowest id first."""
    if not is_unambiguous(definition):
        return False
    words: dict[str, int] = definition["model"]["vocab"]
    merges = [(left, right) for left, right in definition["model"]["merges"]]
    numbers = [words[left + right] for left, right in merges]
    bare = BPE(vocab=words, merges=merges)
    return numbers == sorted(numbers) and all(len(bare.tokenize(token)) == 1 for token in words)


def has_newer_character(text: str) -> bool:
    """Whether there is a character that isn't assigned in Python's Unicode: newer tables may call it a letter."""
    return not text.isascii() and bool(_unassigned()[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())


@cache
def _unassigned() -> npt.NDArray[np.bool_]:
    return np.array([unicodedata.category(chr(point)) == "Cn" for point in range(sys.maxunicode + 1)])


def _gigatoken(definition: str) -> Encode:
    """https://github.com/marcelroed/gigatoken, which reads a tokenizer.json; without its special tokens."""
    ordinary = {**json.loads(definition), "added_tokens": [], "post_processor": None}
    tokenizer = importlib.import_module("gigatoken").Tokenizer.from_json(json.dumps(ordinary))

    def encode(texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        found = tokenizer.encode_batch(texts).layout
        return np.split(np.asarray(found.content.data, np.uint32), np.asarray(found.offsets.data)[1:-1])

    return encode


def _tiktoken(definition: str) -> Encode:
    """https://github.com/openai/tiktoken, which merges in the order of ids."""
    ranks = {token_bytes(token): number for token, number in json.loads(definition)["model"]["vocab"].items()}
    kind = importlib.import_module("tiktoken").Encoding
    tokenizer = kind("own", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def encode(texts: list[str]) -> list[Ids]:
        return [np.array(ids, np.uint32) for ids in tokenizer.encode_ordinary_batch(texts, num_threads=threads)]

    return encode


def _byte_length(text: str) -> int:
    """Length in UTF-8 bytes; UnicodeEncodeError for a lone surrogate."""
    return len(text) if text.isascii() else len(text.encode())


def is_failure(error: BaseException) -> bool:
    """Whether something failed, rather than being stopped; a panic of Rust is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def blaming(what: str, remedy: str) -> Iterator[None]:
    """Turn errors of the backend into a UserError; it raises nothing narrower than Exception, or panics."""
    try:
        yield
    except BaseException as error:
        if not is_failure(error):
            raise
        raise UserError(f"{what} ({error}): {remedy}") from error


def in_batches(pieces: Iterable[str | None]) -> Iterator[list[str | None]]:
    """Pieces in groups of some size in characters."""
    batch: list[str | None] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece or "")
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch
