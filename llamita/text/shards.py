"""Documents to memory-mapped token shards.

A prepared folder holds `index.json`, `train/shard_00000.bin` (token ids and nothing else) with
`train/shard_00000.documents.npy` (where documents start in it), and so on; the same under `validation/`.
Shards end where documents end and appear by one rename each. The index comes last: a folder that has one is
complete. `journal.json` tells how far an interrupted preparation came.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llamita.errors import UserError
from llamita.files import read_text, write_text
from llamita.text.frequency import count_tokens
from llamita.text.holdout import SplitKind, choose_split
from llamita.text.shard_journal import INDEX, JOURNAL, ShardJournal
from llamita.text.shard_writer import AGAIN, Encoder, map_shard, token_dtype

FORMAT_VERSION = 1
GROUP_CHARACTERS = 2**20  # text given to the encoder in one call, so that its threads have work
GROUP_DOCUMENTS = 1000
JOURNAL_BYTES = 16 * 2**20

_INDEX_BYTES = 1 << 26
IntArray = npt.NDArray[np.int64]


@runtime_checkable
class HasText(Protocol):
    """A document, as far as shards care."""

    @property
    def text(self) -> str:
        """All of its text."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A stream of token ids: each document is a BOS, where there is one, and the ids of its text.

    shards: token ids. offsets: where documents start in each shard. text_bytes: the text's length in UTF-8.
    token_hash: SHA-256 of the stream as stored, whatever the shard size (`cat shard_*.bin | sha256sum`).
    """

    shards: tuple[npt.NDArray[Any], ...]
    offsets: tuple[npt.NDArray[Any], ...]
    vocab_size: int
    bos_id: int | None
    fingerprint: str
    text_bytes: int
    token_hash: str

    @cached_property
    def _borders(self) -> IntArray:
        return np.cumsum([0, *map(len, self.shards)], dtype=np.int64)

    @property
    def tokens(self) -> int:
        """Number of tokens, the BOS of every document included."""
        return int(self._borders[-1])

    @property
    def documents(self) -> int:
        """Number of documents; those that encode to nothing are not stored."""
        return sum(map(len, self.offsets))

    @cached_property
    def document_starts(self) -> IntArray:
        """Where each document starts in the whole stream, ascending; shape (documents,)."""
        borders = self._borders[:-1]
        return np.concatenate([offset + border for offset, border in zip(self.offsets, borders, strict=True)])

    def take(self, indices: IntArray) -> IntArray:
        """Tokens at any places of the whole stream, in the shape of `indices`; UserError for ids that are none."""
        tokens = self._stored(indices)
        if (highest := tokens.max(initial=0)) >= self.vocab_size:
            raise UserError(
                f"the prepared text holds token id {highest}, its vocabulary has {self.vocab_size}: its shards are "
                f"damaged; {AGAIN}"
            )
        return tokens

    def _stored(self, indices: IntArray) -> IntArray:
        if len(self.shards) == 1:
            return self.shards[0][indices].astype(np.int64)
        shard_of = np.searchsorted(self._borders, indices, side="right") - 1
        tokens = np.empty(indices.shape, np.int64)
        for number in np.flatnonzero(np.bincount(shard_of.ravel())):
            here = shard_of == number
            tokens[here] = self.shards[number][indices[here] - self._borders[number]]
        return tokens

    @cached_property
    def token_counts(self) -> IntArray:
        """How often each id occurs, among the first billion tokens of a longer corpus; shape (vocab_size,)."""
        return count_tokens(self.shards, self.vocab_size)

    def read(self, start: int, stop: int) -> IntArray:
        """Tokens [start, stop) of the whole stream; shape (stop - start,)."""
        assert 0 <= start <= stop <= self.tokens
        return self.take(np.arange(start, stop))


@dataclass(frozen=True)
class Corpora:
    """A prepared folder: what to train on, what is held out, and how the two were told apart.

    split: "documents" (whole ones are held out), "tail" (too few or too uneven for that: the end of each is)
    or "none" (nothing is, and validation is None).
    """

    train: Corpus
    validation: Corpus | None
    split: SplitKind


def write_shards(
    documents: Iterable[HasText],
    encoder: Encoder,
    folder: Path,
    *,
    validation_fraction: float = 0.0,
    seed: int = 0,
    shard_tokens: int = 100_000_000,
    progress: Callable[[int], None] | None = None,
) -> Corpora:
    """Encode documents into a folder, in the place of what was prepared there before, and open it.

    A shard ends with the document that fills it to `shard_tokens`. `progress` is called with the bytes of
    text done so far. Raises UserError for a fraction outside [0, 1), where there is no text to train on, and
    for a folder that can't be written.
    """
    corpora = resume_shards(
        lambda _: documents,
        encoder,
        folder,
        key=None,
        validation_fraction=validation_fraction,
        seed=seed,
        shard_tokens=shard_tokens,
        progress=progress,
        journal_bytes=sys.maxsize,  # nothing will go on from it
    )
    remove_journal(folder)
    return corpora


def resume_shards(
    documents_from: Callable[[int], Iterable[HasText]],
    encoder: Encoder,
    folder: Path,
    *,
    key: str | None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    shard_tokens: int = 100_000_000,
    progress: Callable[[int], None] | None = None,
    resumed: Callable[[int], None] | None = None,
    journal_bytes: int = JOURNAL_BYTES,
) -> Corpora:
    """`write_shards` that goes on where the same call was interrupted, at whatever moment.

    documents_from: the documents from a number on, counted from 0. key: another one whenever any of them is
    another; None always begins anew. resumed: called with the bytes of text that needn't be encoded again.
    journal_bytes: text encoded from one note in the journal to the next, which an interruption costs, or
    the document that it comes in.
    The same call gives the same again until `remove_journal`.
    """
    terms = {
        "version": FORMAT_VERSION,
        "key": key,
        "fingerprint": encoder.fingerprint,
        "vocab_size": encoder.get_vocab_size(),
        "bos_id": encoder.bos_id,
        "validation_fraction": validation_fraction,
        "seed": seed,
        "shard_tokens": shard_tokens,
    }
    remedy = "make room there, and try again" + (": it goes on where it stood" if key is not None else "")
    journal = ShardJournal(folder, encoder, terms)
    try:
        with _writable(folder, remedy):
            going_on = key is not None and journal.restore()
        texts: Iterator[str] = (document.text for document in documents_from(journal.documents if going_on else 0))
        if not going_on:
            split, texts = choose_split(texts, validation_fraction, seed)
            with _writable(folder, remedy):
                journal.begin(split)
        elif resumed:
            resumed(journal.text_bytes)
        for group in _groups(texts):
            with _writable(folder, remedy):
                journal.add(group)
                journal.note(journal_bytes)
            if progress:
                progress(journal.text_bytes)
        with _writable(folder, remedy):
            _write_index(folder, encoder, journal)
    finally:
        journal.close()
    return open_corpora(folder)


def remove_journal(folder: Path) -> None:
    """End a preparation for good: nothing goes on from it any more."""
    (folder / JOURNAL).unlink(missing_ok=True)


def open_corpora(folder: Path, encoder: Encoder | None = None) -> Corpora:
    """Map a prepared folder into memory; only sizes are checked, not contents.

    Raises UserError if the folder is incomplete or damaged, has another format version, or was encoded by
    another tokenizer than the given one.
    """
    path = folder / INDEX
    try:
        index = json.loads(read_text(path, _INDEX_BYTES))
        if (version := index["version"]) != FORMAT_VERSION:
            raise UserError(f"{path} has version {version!r}, not {FORMAT_VERSION}; {AGAIN}")
        for name, value in _facts(encoder).items():
            if index[name] != value:
                raise UserError(
                    f"{path} was encoded by a tokenizer with {name} {index[name]!r}, not {value!r}; "
                    "prepare the text again or use the tokenizer it was prepared with"
                )
        train = _open_corpus(folder / "train", index, index["train"])
        held_out = index["split"] != "none"
        validation = _open_corpus(folder / "validation", index, index["validation"]) if held_out else None
        return Corpora(train, validation, index["split"])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: no text was prepared there to its end; {AGAIN}") from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {AGAIN}") from error


def _facts(encoder: Encoder | None) -> dict[str, object]:
    """What an index must say of the tokenizer."""
    if encoder is None:
        return {}
    return {"fingerprint": encoder.fingerprint, "vocab_size": encoder.get_vocab_size(), "bos_id": encoder.bos_id}


def _open_corpus(folder: Path, index: dict[str, Any], record: dict[str, Any]) -> Corpus:
    mapped = [map_shard(folder, at, shard, index["vocab_size"]) for at, shard in enumerate(record["shards"])]
    about = {key: index[key] for key in ("vocab_size", "bos_id", "fingerprint")}
    about |= {key: record[key] for key in ("text_bytes", "token_hash")}
    if type(about["text_bytes"]) is not int or not 0 <= about["text_bytes"] < 2**63:
        raise ValueError("text_bytes is no number of bytes")
    return Corpus(tuple(tokens for tokens, _ in mapped), tuple(starts for _, starts in mapped), **about)


def _write_index(folder: Path, encoder: Encoder, journal: ShardJournal) -> None:
    records = journal.finish()
    if not records["train"]["tokens"]:
        raise UserError(f"{folder}: the sources hold no text to train on; name files with text in them")
    index: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "dtype": token_dtype(encoder.get_vocab_size()).name,
        "vocab_size": encoder.get_vocab_size(),
        "bos_id": encoder.bos_id,
        "fingerprint": encoder.fingerprint,
        "split": journal.split.kind if records["validation"]["tokens"] else "none",
        **records,
    }
    write_text(folder / INDEX, json.dumps(index, indent=1))


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP_CHARACTERS or len(group) >= GROUP_DOCUMENTS:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _writable(folder: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror or error}); {remedy}") from error
