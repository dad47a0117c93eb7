"""Learn the vocabulary of a tokenizer from text."""

import logging
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Model, WordLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, WordLevelTrainer

from llamita.errors import UserError
from llamita.text.byte_level import BYTE_SYMBOLS, steps
from llamita.text.splitting import OWN_JOINER, SCHEMES, Kind, Scheme, chunks

BOS: Final = "<|begin_of_text|>"
EOS: Final = "<|end_of_text|>"
UNKNOWN: Final = "<|unknown|>"
RESERVED: Final = re.compile(r"<\|reserved_\d+\|>")
_NAMED: Final = (BOS, EOS)

_MULTIPLE: Final = 64  # table sizes that matrix kernels like
_MAX_TOKEN_LENGTH: Final = 64
# A pair that occurs once makes a token that occurs once: its row would hardly be trained.
_MIN_FREQUENCY: Final = 2
# Short, because merging takes hours where unbroken stretches (a genome, base64) become one huge word.
_CHUNK: Final = 500
# Words and characters are looked for up to here.
_MAX_CHARACTERS: Final = 500_000_000
# More make merges no better: a quarter of 147 MB gives 0.1 % more tokens than half of it (docs/log.md). Far more would
# overflow the trainer's 32-bit counts of pairs (huggingface/tokenizers#2058). With repetitions up to twice as many.
_SAMPLE_CHARACTERS: Final = 64_000_000

_log = logging.getLogger(__name__)


def train_backend(documents: Iterable[str], vocab_size: int, kind: Kind) -> Backend:
    """Train a tokenizer whose vocabulary is filled up to a multiple of 64 with reserved tokens.

    Deterministic, whatever the order of the documents. Raises UserError for an unknown kind, a vocab_size
    that is too small and documents without text; kind "byte" looks at neither of these.
    """
    if kind not in SCHEMES:
        raise UserError(f"tokenizer kind is {kind!r}: use one of {', '.join(SCHEMES)}")
    if kind == "byte":
        return _finish(BPE(vocab={symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}, merges=[]), kind)
    smallest = len(_NAMED) + (len(BYTE_SYMBOLS) if kind == "bpe" else 2)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size is {vocab_size}, but a {kind} vocabulary starts with {smallest} tokens: "
            f"use {_round_up(smallest)} or more" + (", or kind byte" if kind == "bpe" else "")
        )
    learn = {"bpe": _learn_merges, "word": _learn_words, "char": _learn_characters}[kind]
    pieces = _pieces(documents, SCHEMES[kind], sys.maxsize if kind == "bpe" else _MAX_CHARACTERS)
    return _finish(learn(pieces, _round_up(vocab_size) - len(_NAMED)), kind)


def _pieces(documents: Iterable[str], scheme: Scheme, most: int) -> Iterator[str]:
    """Chunks of the documents, up to some number of characters."""
    seen = 0
    for document in documents:
        text = document[: most - seen]
        seen += len(text)
        yield from chunks(text, scheme, _CHUNK)
        if len(text) < len(document):
            _log.warning("the tokenizer is trained on the first %d characters of the text only", seen)
            break
    if not seen:
        raise UserError("there is no text to train a tokenizer on: give it documents that are not empty")


def _sample(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces of a text as often as they occur, in any order; bounded, as is the memory for them.

    Of a long text half of the different pieces, a quarter, and so on. Of pieces that repeat too much a part of their
    occurrences, in proportion, but each at least once.
    """
    bound, distinct = 1 << 32, 0
    kept: Counter[str] = Counter()
    for piece in pieces:
        if piece in kept or _number(piece) < bound:
            distinct += 0 if piece in kept else len(piece)
            kept[piece] += 1
        while distinct > _SAMPLE_CHARACTERS:
            bound //= 2
            kept = Counter({one: times for one, times in kept.items() if _number(one) < bound})
            distinct = sum(map(len, kept))
    total = sum(len(piece) * times for piece, times in kept.items())
    if total > _SAMPLE_CHARACTERS:
        share = _SAMPLE_CHARACTERS / total
        kept = Counter({piece: max(1, round(times * share)) for piece, times in kept.items()})
    return kept.elements()


def _number(piece: str) -> int:
    return zlib.crc32(piece.encode("utf-8", "surrogatepass"))


def _learn_merges(pieces: Iterator[str], size: int) -> BPE:
    backend = _assemble(BPE(ignore_merges=True), "bpe")
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=_MIN_FREQUENCY,
        max_token_length=_MAX_TOKEN_LENGTH,
        initial_alphabet=list(BYTE_SYMBOLS),
        show_progress=False,
    )
    backend.train_from_iterator(_sample(pieces), trainer)
    model = backend.model
    assert isinstance(model, BPE)
    return model


def _learn_words(pieces: Iterator[str], size: int) -> WordLevel:
    """The most frequent words, ties in alphabetical order."""
    backend = _assemble(WordLevel(unk_token=UNKNOWN), "word")
    backend.train_from_iterator(pieces, WordLevelTrainer(vocab_size=size, min_frequency=0, show_progress=False))
    found = backend.get_vocab(with_added_tokens=False)
    words = sorted(found.keys() - {OWN_JOINER}, key=found.__getitem__)
    return _word_level(words[: size - 1])


def _learn_characters(pieces: Iterator[str], size: int) -> WordLevel:
    """The most frequent characters, in the order of their code points."""
    counts: Counter[str] = Counter()
    for chunk in pieces:
        counts.update(chunk)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    return _word_level(sorted(frequent[: size - 1]))


def _word_level(tokens: list[str]) -> WordLevel:
    return WordLevel(vocab={token: number for number, token in enumerate([UNKNOWN, *tokens])}, unk_token=UNKNOWN)


def _finish(model: Model, kind: Kind) -> Backend:
    """Append the special tokens and the reserved ones that round the vocabulary up."""
    backend = _assemble(model, kind)
    learned = backend.get_vocab_size() + len(_NAMED)
    reserved = [f"<|reserved_{number}|>" for number in range(_round_up(learned) - learned)]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*_NAMED, *reserved)])
    add_first(backend, BOS)
    return backend


def add_first(backend: Backend, token: str) -> None:
    """Have a special token added before a text, if a template can name it; readers of tokenizer.json do so, too."""
    if not set(token) & set(" :$"):
        backend.post_processor = TemplateProcessing(
            single=f"{token} $A",
            pair=f"{token} $A {token} $B:1",
            special_tokens=[(token, backend.token_to_id(token))],
        )


def added_first(backend: Backend) -> str | None:
    """The special token that is added before a text, if there is one."""
    for step in steps(backend.post_processor, "processors"):
        first = step["single"][:1] if step["type"] == "TemplateProcessing" else []
        told = first[0].get("SpecialToken", {}).get("id") if first else step.get("cls", [None])[0]
        if told is not None:
            return str(told)
    return None


def _assemble(model: Model, kind: Kind) -> Backend:
    scheme = SCHEMES[kind]
    backend = Backend(model)
    if scheme.normalizer is not None:
        backend.normalizer = scheme.normalizer
    backend.pre_tokenizer = scheme.pre_tokenizer
    backend.decoder = scheme.decoder
    return backend


def _round_up(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE
