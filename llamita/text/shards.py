"""Documents to memory-mapped token shards.

A prepared folder holds `index.json`, `train/shard_00000.bin` (token ids and nothing else) with
`train/shard_00000.documents.npy` (where documents start in it), and so on; the same under `validation/`.
Shards end where documents end and appear by one rename each. The index comes last: a folder that has one is
complete.

Longer than other files because what writes the format and what reads it belong side by side.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llamita.errors import UserError
from llamita.files import whole_file

FORMAT_VERSION = 1
LOOK_AHEAD_BYTES = 64 * 2**20  # text held back until the way of splitting is decided
GROUP_CHARACTERS = 2**20  # text given to the encoder in one call, so that its threads have work
GROUP_DOCUMENTS = 1000
CUT_REACH = 10_000  # characters searched for a line end before a text is cut anywhere

IntArray = npt.NDArray[np.int64]
Part = Literal["train", "validation"]
SplitKind = Literal["documents", "tail", "none"]


@runtime_checkable
class HasText(Protocol):
    """A document, as far as shards care."""

    @property
    def text(self) -> str:
        """All of its text."""


@runtime_checkable
class Encoder(Protocol):
    """A tokenizer, as far as shards care."""

    @property
    def bos_id(self) -> int | None:
        """Id to put before every document, if any."""

    @property
    def fingerprint(self) -> str:
        """Another string whenever some text would get other ids."""

    def get_vocab_size(self) -> int:
        """Number above every id."""

    def encode_batch(self, texts: list[str], /) -> Sequence[Sequence[int] | npt.NDArray[Any]]:
        """Ids of each text, without BOS."""


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
        """Tokens at any places of the whole stream, in the shape of `indices`."""
        if len(self.shards) == 1:
            return self.shards[0][indices].astype(np.int64)
        shard_of = np.searchsorted(self._borders, indices, side="right") - 1
        tokens = np.empty(indices.shape, np.int64)
        for number in np.flatnonzero(np.bincount(shard_of.ravel())):
            here = shard_of == number
            tokens[here] = self.shards[number][indices[here] - self._borders[number]]
        return tokens

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


def split_documents(
    documents: Iterable[HasText], fraction: float, seed: int
) -> tuple[SplitKind, Iterator[tuple[Part, str]]]:
    """Hold out about `fraction` of the text; gives how that is done, and the parts and texts in their order.

    Whole documents are picked by a seeded hash of their number. Where that would miss the fraction badly on
    the text looked at ahead (all of a small corpus, the beginning of a large one), the tail of each document
    is held out instead.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"validation fraction {fraction}: give a number from 0 to less than 1")
    texts = (document.text for document in documents)
    if not fraction:
        return "none", (("train", text) for text in texts)
    ahead: deque[str] = deque()
    size = held_out = 0
    for text in texts:
        held_out += byte_length(text) * _picked(len(ahead), fraction, seed)
        size += byte_length(text)
        ahead.append(text)
        if size >= LOOK_AHEAD_BYTES and len(ahead) > 1:
            break
    rest = chain((ahead.popleft() for _ in range(len(ahead))), texts)
    if fraction / 4 * size <= held_out <= min(4 * fraction, (1 + fraction) / 2) * size:
        return "documents", _whole(rest, fraction, seed)
    return "tail", _tails(rest, fraction)


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
    text done so far. Raises UserError for a fraction outside [0, 1) and where there is no text to train on.
    """
    split, texts = split_documents(documents, validation_fraction, seed)
    parts: tuple[Part, ...] = ("train", "validation")
    _clear(folder, parts)
    with ExitStack() as stack:
        writers = {part: _Writer(folder / part, encoder, shard_tokens, stack) for part in parts}
        done = 0
        for group in _groups(texts):
            encoded = encoder.encode_batch([text for _, text in group])
            for (part, text), ids in zip(group, encoded, strict=True):
                writers[part].add(ids, byte_length(text))
                done += byte_length(text)
            if progress:
                progress(done)
        records: dict[str, dict[str, Any]] = {part: writer.finish() for part, writer in writers.items()}
    if not records["train"]["tokens"]:
        raise UserError(f"{folder}: the sources hold no text to train on; name files with text in them")
    index: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "dtype": _dtype(encoder.get_vocab_size()).name,
        "vocab_size": encoder.get_vocab_size(),
        "bos_id": encoder.bos_id,
        "fingerprint": encoder.fingerprint,
        "split": split if records["validation"]["tokens"] else "none",
        **records,
    }
    with whole_file(folder / "index.json") as file:
        file.write(json.dumps(index, indent=1).encode())
    return open_corpora(folder)


def open_corpora(folder: Path, *, fingerprint: str | None = None) -> Corpora:
    """Map a prepared folder into memory; only sizes are checked, not contents.

    Raises UserError if the folder is incomplete or damaged, has another format version, or was encoded by a
    tokenizer with another fingerprint than the given one.
    """
    path = folder / "index.json"
    try:
        index = json.loads(path.read_bytes())
        if (version := index["version"]) != FORMAT_VERSION:
            raise UserError(f"{path} has version {version!r}, not {FORMAT_VERSION}; prepare the text again")
        if fingerprint not in (None, index["fingerprint"]):
            raise UserError(
                f"{path} was encoded by tokenizer {index['fingerprint']}, not by {fingerprint}; "
                "prepare the text again or use the tokenizer it was prepared with"
            )
        train = _open_corpus(folder / "train", index, index["train"])
        held_out = index["split"] != "none"
        validation = _open_corpus(folder / "validation", index, index["validation"]) if held_out else None
        return Corpora(train, validation, index["split"])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: no text was prepared there to its end; prepare it") from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); prepare the text again") from error


def byte_length(text: str) -> int:
    """Length in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _open_corpus(folder: Path, index: dict[str, Any], record: dict[str, Any]) -> Corpus:
    shards, offsets = [], []
    for number, shard in enumerate(record["shards"]):
        tokens_path, offsets_path = _shard_paths(folder, number)
        shards.append(_mapped(tokens_path, shard["tokens"], _dtype(index["vocab_size"])))
        offsets.append(_mapped(offsets_path, shard["documents"], np.dtype("<i8")))
    about = {key: index[key] for key in ("vocab_size", "bos_id", "fingerprint")}
    about |= {key: record[key] for key in ("text_bytes", "token_hash")}
    return Corpus(tuple(shards), tuple(offsets), **about)


def _mapped(path: Path, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        npy = path.suffix == ".npy"
        array = np.load(path, mmap_mode="r") if npy else np.memmap(path, dtype, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; prepare the text again") from None
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); prepare the text again") from error
    if array.shape != (count,) or array.dtype != dtype:
        held = f"{array.size} {array.dtype} numbers instead of {count} {dtype}"
        raise UserError(f"{path} holds {held}; prepare the text again")
    return np.asarray(array)  # indexing a plain array costs several times less than indexing np.memmap


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def _shard_paths(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"shard_{number:05}.bin", folder / f"shard_{number:05}.documents.npy"


def _picked(number: int, fraction: float, seed: int) -> bool:
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _whole(texts: Iterable[str], fraction: float, seed: int) -> Iterator[tuple[Part, str]]:
    for number, text in enumerate(texts):
        yield "validation" if _picked(number, fraction, seed) else "train", text


def _tails(texts: Iterable[str], fraction: float) -> Iterator[tuple[Part, str]]:
    for text in texts:
        cut = _tail_start(text, fraction)
        yield "train", text[:cut]
        if cut < len(text):
            yield "validation", text[cut:]


def _tail_start(text: str, fraction: float) -> int:
    """After a line end shortly before the goal, else before white space, else at the goal."""
    if len(text) < 2:
        return len(text)
    goal = min(max(round(len(text) * (1 - fraction)), 1), len(text) - 1)
    low = max(goal - min(CUT_REACH, round(len(text) * fraction / 2)), 0)
    if newline := text.rfind("\n", low, goal) + 1:
        return newline
    return next((place for place in range(goal, low, -1) if text[place].isspace()), goal)


def _groups(texts: Iterable[tuple[Part, str]]) -> Iterator[list[tuple[Part, str]]]:
    group: list[tuple[Part, str]] = []
    size = 0
    for part, text in texts:
        group.append((part, text))
        size += len(text)
        if size >= GROUP_CHARACTERS or len(group) >= GROUP_DOCUMENTS:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Writer:
    """Appends documents to the shards of one corpus; an error in `stack` drops the unfinished shard."""

    def __init__(self, folder: Path, encoder: Encoder, shard_tokens: int, stack: ExitStack) -> None:
        self._folder, self._shard_tokens = folder, shard_tokens
        self._vocab_size = encoder.get_vocab_size()
        self._bos = [] if encoder.bos_id is None else [encoder.bos_id]
        self._hash = hashlib.sha256()
        self._shards: list[dict[str, int]] = []
        self._starts: list[int] = []  # this and the next three: of the shard being written
        self._tokens = self._text_bytes = 0
        self._file: BinaryIO | None = None
        self._writing = stack.enter_context(ExitStack())

    def add(self, ids: Sequence[int] | npt.NDArray[Any], text_bytes: int) -> None:
        self._text_bytes += text_bytes
        if not len(ids):
            return
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path, _ = _shard_paths(self._folder, len(self._shards))
            self._file = self._writing.enter_context(whole_file(path))
        ids = np.asarray(ids)
        assert ids.min() >= 0 and ids.max() < self._vocab_size
        document = np.empty(len(self._bos) + len(ids), _dtype(self._vocab_size))
        document[: len(self._bos)], document[len(self._bos) :] = self._bos, ids
        self._file.write(document.data)
        self._hash.update(document.data)
        self._starts.append(self._tokens)
        self._tokens += len(document)
        if self._tokens >= self._shard_tokens:
            self._end_shard()

    def finish(self) -> dict[str, Any]:
        """Give the last shard its name; what the index says of this corpus."""
        if self._file is not None:
            self._end_shard()
        elif self._text_bytes and self._shards:  # text without tokens at the end
            self._shards[-1]["text_bytes"] += self._text_bytes
        keys = ("documents", "tokens", "text_bytes")
        totals = {key: sum(shard[key] for shard in self._shards) for key in keys}
        return {**totals, "token_hash": self._hash.hexdigest(), "shards": self._shards}

    def _end_shard(self) -> None:
        _, path = _shard_paths(self._folder, len(self._shards))
        with whole_file(path) as file:
            np.save(file, np.array(self._starts, "<i8"))
        self._writing.close()
        self._shards.append({"documents": len(self._starts), "tokens": self._tokens, "text_bytes": self._text_bytes})
        self._starts, self._tokens, self._text_bytes, self._file = [], 0, 0, None


def _clear(folder: Path, parts: Iterable[Part]) -> None:
    """Remove an earlier preparation, the index first: an old index must never stand over new shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    for path in [path for part in parts for path in (folder / part).glob("shard_*")]:
        path.unlink()
