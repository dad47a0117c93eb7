"""The shards of one part of a corpus, written so that a killed process loses only what no journal knows of.

A shard grows as two files that end in .part, its token ids and where its documents start. When it is full, its
document starts get their name; its tokens get theirs, which makes it whole, once a journal says that it is full.
"""

import hashlib
import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
import numpy.typing as npt

from llamita.errors import UserError
from llamita.files import File, sync_folder, whole_file

AGAIN = "prepare the text again as another --run and copy its data folder here"
_START = np.dtype("<i8")
_BLOCK = 2**24  # bytes hashed at a time


class ShardRecord(TypedDict):
    """What is in a shard."""

    documents: int
    tokens: int
    text_bytes: int


class PartRecord(TypedDict):
    """What a journal says of one part: its full shards, how far the one after them is, and what is in them all."""

    shards: list[ShardRecord]
    unfinished: ShardRecord
    token_hash: str


class UnfitError(Exception):
    """The files are not those that a journal tells of."""


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


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """How a token id is stored."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def shard_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """The files of a shard: token ids, and where documents start."""
    return folder / f"shard_{number:05}.bin", folder / f"shard_{number:05}.documents.npy"


def map_shard(
    folder: Path, number: int, record: ShardRecord, vocab_size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A shard's token ids and document starts, mapped into memory; UserError if their sizes aren't the record's."""
    tokens_path, starts_path = shard_paths(folder, number)
    tokens = _mapped(tokens_path, record["tokens"], token_dtype(vocab_size))
    starts = _mapped(starts_path, record["documents"], _START)
    if starts.size and (starts[0] != 0 or starts[-1] >= tokens.size or (starts[1:] <= starts[:-1]).any()):
        raise UserError(f"{starts_path} is damaged (documents start out of order); {AGAIN}")
    return tokens, starts


class ShardWriter:
    """Appends documents to shards that end with the document that fills them to `shard_tokens`.

    Call `sync` before and `settle` after a journal with `record` is written.
    """

    def __init__(self, folder: Path, encoder: Encoder, shard_tokens: int) -> None:
        self._folder, self._shard_tokens = folder, shard_tokens
        self._vocab_size = encoder.get_vocab_size()
        self._dtype = token_dtype(self._vocab_size)
        self._bos = [] if encoder.bos_id is None else [encoder.bos_id]
        self._hash = hashlib.sha256()
        self._shards: list[ShardRecord] = []
        self._now = ShardRecord(documents=0, tokens=0, text_bytes=0)
        self._tokens: list[npt.NDArray[Any]] = []  # this and the next: added, but not yet in the files
        self._starts: list[int] = []
        self._files: list[File] = []
        self._full: list[int] = []  # shards that no journal tells of
        self._made_files = False

    @property
    def has_full_shards(self) -> bool:
        """Whether shards wait for a journal."""
        return bool(self._full)

    @property
    def record(self) -> PartRecord:
        """What a journal must say."""
        return PartRecord(shards=self._shards, unfinished=self._now, token_hash=self._hash.hexdigest())

    def add(self, ids: Sequence[int] | npt.NDArray[Any], text_bytes: int) -> None:
        """Append a document; nothing but its length counts of one without ids."""
        self._now["text_bytes"] += text_bytes
        if not len(ids):
            return
        ids = np.asarray(ids)
        assert ids.min() >= 0 and ids.max() < self._vocab_size
        document = np.empty(len(self._bos) + len(ids), self._dtype)
        document[: len(self._bos)], document[len(self._bos) :] = self._bos, ids
        self._tokens.append(document)
        self._starts.append(self._now["tokens"])
        self._now["documents"] += 1
        self._now["tokens"] += len(document)
        if self._now["tokens"] >= self._shard_tokens:
            self._end_shard()

    def flush(self) -> None:
        """Write what was added to the files."""
        if not self._tokens:
            return
        if not self._files:
            self._open()
        tokens = self._tokens[0] if len(self._tokens) == 1 else np.concatenate(self._tokens)
        self._hash.update(tokens.data)
        for file, data in zip(self._files, (tokens, np.array(self._starts, _START)), strict=True):
            file.write(data.data)
        self._tokens, self._starts = [], []

    def sync(self) -> None:
        """Wait until all that was added is on the disk."""
        self.flush()
        for file in self._files:
            file.sync()
        if self._made_files:
            sync_folder(self._folder)
            self._made_files = False

    def settle(self) -> None:
        """Give full shards their names, now that a journal tells of them."""
        for number in self._full:
            self._name(number)
        if self._full:
            sync_folder(self._folder)
        self._full = []

    def finish(self) -> None:
        """End the last shard, however full it is."""
        if self._now["documents"]:
            self._end_shard()
        elif self._shards:  # text without tokens at the end
            self._shards[-1]["text_bytes"] += self._now["text_bytes"]
            self._now["text_bytes"] = 0

    def close(self) -> None:
        """Close the files as they are."""
        while self._files:
            self._files.pop().close()

    def restore(self, record: PartRecord) -> None:
        """Go on from what a journal says, and forget what was written after it; UnfitError if that can't be."""
        self._shards, self._now = record["shards"], record["unfinished"]
        for number, shard in enumerate(self._shards):
            tokens_path, _ = shard_paths(self._folder, number)
            if not tokens_path.exists():
                self._name(number)
            try:
                map_shard(self._folder, number, shard, self._vocab_size)
            except UserError as error:
                raise UnfitError(str(error)) from error
            self._hash_file(tokens_path)
        known = [path for number in range(len(self._shards)) for path in shard_paths(self._folder, number)]
        if self._now["documents"]:
            tokens_part, starts_part = self._part_paths(len(self._shards))
            _cut(tokens_part, self._now["tokens"] * self._dtype.itemsize)
            _cut(starts_part, self._now["documents"] * _START.itemsize)
            self._hash_file(tokens_part)
            self._open()
            known += [tokens_part, starts_part]
        if self._hash.hexdigest() != record["token_hash"]:
            raise UnfitError(f"{self._folder} holds other tokens")
        remove_shards(self._folder, keep=known)

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._part_paths(len(self._shards)):
            self._files.append(File(path, "a"))
        self._made_files = True

    def _end_shard(self) -> None:
        self.sync()
        self.close()
        number = len(self._shards)
        starts = np.frombuffer(self._part_paths(number)[1].read_bytes(), _START)
        content = io.BytesIO()  # numpy would write to a file by itself
        np.save(content, starts)
        with whole_file(shard_paths(self._folder, number)[1]) as file:
            file.write(content.getbuffer())
        self._full.append(number)
        self._shards.append(self._now)
        self._now = ShardRecord(documents=0, tokens=0, text_bytes=0)

    def _name(self, number: int) -> None:
        tokens_part, starts_part = self._part_paths(number)
        try:
            os.replace(tokens_part, shard_paths(self._folder, number)[0])
        except FileNotFoundError as error:
            raise UnfitError(f"{tokens_part} is missing") from error
        starts_part.unlink(missing_ok=True)

    def _part_paths(self, number: int) -> tuple[Path, Path]:
        tokens_path, starts_path = shard_paths(self._folder, number)
        return tokens_path.with_suffix(".bin.part"), starts_path.with_suffix(".part")

    def _hash_file(self, path: Path) -> None:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                self._hash.update(block)


def remove_shards(folder: Path, keep: Collection[Path] = ()) -> None:
    """Remove the files of shards, unfinished ones and what was left aside too, but for those to keep."""
    for path in [*folder.glob("shard_*"), *folder.glob(".shard_*")]:
        if path not in keep:
            path.unlink()


def _cut(path: Path, size: int) -> None:
    """Take away what is in a file after its first `size` bytes."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise UnfitError(f"{path} has {found} of {size} bytes")
    if found > size:
        os.truncate(path, size)


def _mapped(path: Path, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        npy = path.suffix == ".npy"
        array = np.load(path, mmap_mode="r") if npy else np.memmap(path, dtype, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {AGAIN}") from None
    except Exception as error:  # numpy's parser of headers raises whatever Python's own does
        raise UserError(f"{path} is damaged ({error}); {AGAIN}") from error
    if array.shape != (count,) or array.dtype != dtype:
        held = f"{array.size} {array.dtype} numbers instead of {count} {dtype}"
        raise UserError(f"{path} holds {held}; {AGAIN}")
    return np.asarray(array)  # indexing a plain array costs several times less than indexing np.memmap
