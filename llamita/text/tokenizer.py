"""Text to token ids and back."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from llamita.errors import UserError
from llamita.files import read_text, write_text
from llamita.text.byte_level import decoded, is_byte_level, loses_nothing, numbers_bytes, readable, token_bytes
from llamita.text.engines import FastestEngine, Ids, blaming, in_batches
from llamita.text.growth import growth
from llamita.text.specials import Settings, known_tokens, save_settings, settings_beside, special_id
from llamita.text.splitting import JOINER, SCHEMES, SPACED, Kind, chunks, fitting_kind
from llamita.text.vocabulary import RESERVED, add_first, added_first, train_backend

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CHUNK: Final = 32_000  # characters of one piece of work of the encoder
# Beyond any that is known: an id, and the size of a tokenizer.json, by which a stranger's file could take memory.
_LARGEST: Final = 1 << 22
_FILE_BYTES: Final = 1 << 29
_GROWTH: Final = 1 << 12


class Tokenizer:
    """A tokenizer of one of four kinds, or any other that a tokenizer.json describes.

    Byte-level BPE ("bpe") and bytes ("byte") lose nothing: decode(encode(s)) == s for every string, the names
    of special tokens included, which are ordinary text. Words ("word") and characters ("char") lose what is
    not in their vocabulary: it becomes `unknown_id`, and `unknown` names it.
    """

    def __init__(self, backend: Backend, settings: Settings | None = None) -> None:
        backend.encode_special_tokens = True  # not saved in tokenizer.json
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self._size > _LARGEST:
            raise UserError(f"a token has id {self._size - 1}: give a tokenizer whose ids are below {_LARGEST}")
        if (factor := growth(backend)) > _GROWTH:
            raise UserError(f"its steps may make a text {factor:.0g} times as long: give one with less of them")
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self.settings = known_tokens(settings or {}, backend.token_to_id)  # of tokenizer_config.json, if there is one
        self.bos_id = special_id("bos_token", self.settings, backend.token_to_id, self.special_ids)
        self.eos_id = special_id("eos_token", self.settings, backend.token_to_id, self.special_ids)
        self.unknown_id = backend.token_to_id(getattr(backend.model, "unk_token", None) or "<unk>")
        fitting = fitting_kind(backend)
        if (fitting == "char" and self.unknown_id is None) or (fitting == "byte" and not numbers_bytes(backend)):
            fitting = None  # what is quick for ours would be wrong for it
        self.kind: str = fitting or type(backend.model).__name__.lower()
        spaced = SPACED if SPACED.splits(backend) and self.special_ids == added.keys() else None
        self._scheme = SCHEMES[fitting] if fitting else spaced
        self.lossless = loses_nothing(backend)
        self.engine = FastestEngine(backend, others=fitting == "bpe")

    def __reduce__(self) -> tuple[Callable[[str, Settings], "Tokenizer"], tuple[str, Settings]]:
        return _of_json, (self.to_json(), self.settings)

    @classmethod
    def train(cls, documents: Iterable[str], *, vocab_size: int, kind: Kind = "bpe") -> "Tokenizer":
        """Learn a vocabulary from text.

        `get_vocab_size()` is vocab_size rounded up to a multiple of 64; less where the text gives less, and
        `reserved` says how much it lacked. Kind "byte" needs neither documents nor a vocab_size. The same
        documents give the same tokenizer, in any order. Raises UserError for a vocab_size that is too small
        and documents without text.
        """
        return cls(train_backend(documents, vocab_size, kind))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a tokenizer.json of any origin, or the one in a folder; UserError if that isn't possible.

        A tokenizer_config.json beside it says where texts begin and end; without one these are known by their names.
        """
        file = Path(path)
        if os.path.isdir(file):
            file = file / "tokenizer.json"
        if os.path.exists(file) and not os.path.isfile(file):
            raise UserError(f"{file} is a pipe or a device: give a tokenizer.json or its folder")
        try:
            text, settings = read_text(file, _FILE_BYTES), settings_beside(file)
        except FileNotFoundError:
            raise UserError(
                f"{file}: no such tokenizer; train one with `llamita tokenizer train SOURCE... --out {file}`"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read: {error}; give a tokenizer.json or its folder") from error
        with blaming(
            f"{file} is not a tokenizer.json",
            "train a tokenizer, or convert a vocab.json with save_pretrained of a fast tokenizer of transformers; "
            "`llamita import hf` reads a tokenizer.model with its model",
        ):
            return cls(Backend.from_str(text), settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a tokenizer.json, which appears whole or not at all; makes the folders on the way."""
        file = Path(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_settings(self.settings, file)
            write_text(file, self.to_json())
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error}") from error

    def to_json(self) -> str:
        """The text of this tokenizer's tokenizer.json."""
        return self._backend.to_str(pretty=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the content of tokenizer.json and the settings, however they are laid out."""
        said = json.loads(self.to_json()) | ({"settings": self.settings} if self.settings else {})
        content = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def get_vocab_size(self) -> int:
        """Rows that a table of this vocabulary needs: the highest id and one."""
        return self._size

    @property
    def reserved(self) -> int:
        """Number of reserved tokens, which no text encodes to."""
        names = (self.id_to_token(number) or "" for number in self.special_ids)
        return sum(RESERVED.fullmatch(name) is not None for name in names)

    @cached_property
    def text_size(self) -> int:
        """The highest id that some text encodes to, and one."""
        words = self._backend.get_vocab(with_added_tokens=False)
        ids = reversed(range(self._size))
        silent = takewhile(lambda number: number in self.special_ids and self.id_to_token(number) not in words, ids)
        return self._size - sum(1 for _ in silent)

    def token_to_id(self, token: str) -> int | None:
        """Id of a token as tokenizer.json spells it."""
        try:
            return self._backend.token_to_id(token)
        except UnicodeEncodeError:  # a lone surrogate: no token has one
            return None

    def id_to_token(self, token_id: int) -> str | None:
        """A token as tokenizer.json spells it: "Ġking" for " king" in BPE, a joiner and "." for a mark."""
        return self._backend.id_to_token(token_id) if token_id >= 0 else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS; UserError if it holds a lone surrogate, which is not a character.

        Texts are cut where that changes no ids. Byte-level BPE cuts a stretch of 64,000 characters without such a
        place all the same, words one of a million: its ids may then differ from those of the whole.
        """
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    @cached_property
    def adds_bos(self) -> bool:
        """Whether a model is given BOS before a text: by its template alone, as in transformers 5."""
        first = added_first(self._backend)
        return first is not None and self.token_to_id(first) == self.bos_id

    def opening(self, ids: Sequence[int]) -> list[int]:
        """Ids that a model is given before these of a text: BOS, if it is added or there is nothing else."""
        return [self.bos_id] if self.bos_id is not None and (self.adds_bos or not ids) else []

    def with_bos(self) -> "Tokenizer":
        """One that adds BOS before a text, as a corpus has it; the same where it does, or can't."""
        name = None if self.bos_id is None or self.adds_bos else self.id_to_token(self.bos_id)
        if name is None:
            return self
        backend = Backend.from_str(self.to_json())
        add_first(backend, name)
        return Tokenizer(backend, self.settings)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text, without BOS, on all cores; texts may have any length, and are cut as by `encode`."""
        return list(self.encode_stream(texts))

    def encode_stream(self, texts: Iterable[str]) -> Iterator[Ids]:
        """Ids of each text, as `encode_batch` gives them; takes texts only as far as a batch needs."""
        parts: list[Ids] = []
        for batch in in_batches(self._chunks(texts)):
            encoded = iter(self._encode_chunks([chunk for chunk in batch if chunk is not None]))
            for chunk in batch:
                if chunk is not None:
                    parts.append(next(encoded))
                    continue
                yield np.concatenate(parts)
                parts = []

    def decode(self, ids: Sequence[int] | npt.NDArray[Any], *, skip_special: bool = True) -> str:
        """Text of ids, without special and reserved tokens unless asked for them.

        Bytes that are no UTF-8 show as U+FFFD. Raises UserError for ids outside the vocabulary.
        """
        kept = [number for number in self.checked(ids) if not (skip_special and number in self.special_ids)]
        if self.byte_table is not None:
            return b"".join(map(self.byte_table.__getitem__, kept)).decode("utf-8", "replace")
        with blaming("this tokenizer cannot decode its tokens", "give one that can"):
            return decoded(self._backend, kept)

    def tokens(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[str]:
        """Each token as a person reads it: bytes that are no text as <0xE2>, marks without their joiners."""
        numbers = self.checked(ids)
        if self.byte_table is not None:
            return [readable(self.byte_table[number]) for number in numbers]
        names = [self.id_to_token(number) or "" for number in numbers]
        return [name.strip(JOINER) for name in names] if self.kind == "word" else names

    def unknown(self, text: str) -> list[str]:
        """Each word or character of a text that the vocabulary lacks, in order, as often as it occurs."""
        if self.lossless or self.unknown_id is None:
            return []
        with blaming("this tokenizer cannot encode the text", "give one that can"):
            if self._scheme is None or self._scheme is SPACED:
                encoding = self._backend.encode(text, add_special_tokens=False)
                spans = zip(encoding.ids, encoding.offsets, strict=True)
                return [text[start:stop] for number, (start, stop) in spans if number == self.unknown_id]
            normalizer = self._scheme.normalizer
            shaped = normalizer.normalize_str(text) if normalizer else text
            pieces = (piece for piece, _ in self._scheme.pre_tokenizer.pre_tokenize_str(shaped))
            return [piece.strip(JOINER) or JOINER for piece in pieces if self.token_to_id(piece) is None]

    @cached_property
    def byte_table(self) -> list[bytes] | None:
        """The bytes of every token, by id; None if tokens are not made of bytes."""
        if not is_byte_level(self._backend):
            return None
        return [token_bytes(self.id_to_token(number) or "") for number in range(self._size)]

    def checked(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[int]:
        """The same ids in a list; UserError if one is outside the vocabulary."""
        array = np.asarray(ids, dtype=np.int64)
        wrong = array[(array < 0) | (array >= self._size)]
        if wrong.size:
            raise UserError(
                f"token id {wrong[0]} is outside this vocabulary of {self._size}: use the model's tokenizer"
            )
        numbers: list[int] = array.tolist()
        return numbers

    @cached_property
    def _characters(self) -> Ids:
        """The id of every Unicode character, for the kind whose tokens are characters."""
        assert self.unknown_id is not None
        table = np.full(sys.maxunicode + 1, self.unknown_id, np.uint32)
        for token, number in self._backend.get_vocab(with_added_tokens=False).items():
            if len(token) == 1:
                table[ord(token)] = number
        return table

    def _encode_chunks(self, texts: list[str]) -> list[Ids]:
        try:
            match self.kind:
                case "byte":
                    return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]
                case "char":
                    points = (np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in texts)
                    return [self._characters[numbers] for numbers in points]
            with blaming("this tokenizer cannot encode the text", "give one that can"):
                return self.engine(texts)
        except (UserError, UnicodeEncodeError):
            for found in filter(None, map(_SURROGATE.search, texts)):
                raise UserError(
                    f"the text has U+{ord(found[0]):04X}, a lone surrogate, which is not a character: "
                    "decode its source with errors='replace'"
                ) from None
            raise

    def _chunks(self, texts: Iterable[str]) -> Iterator[str | None]:
        """Chunks of each text, and None at its end."""
        for text in texts:
            if self._scheme is None:
                yield text
            else:
                yield from chunks(text, self._scheme, _CHUNK)
            yield None


def _of_json(text: str, settings: Settings) -> Tokenizer:
    return Tokenizer(Backend.from_str(text), settings)
