"""Where text may be cut: into pre-tokens by the rule of each kind, and into chunks that encode alike."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from tokenizers import Regex
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteFallback, Decoder, Fuse, Strip
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Replace as ReplaceToken
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Normalizer, Prepend, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence

Kind = Literal["bpe", "word", "char", "byte"]

# The pre-tokenizer of Llama 3, verbatim: llama.cpp knows it as "llama-bpe", other readers by this string.
LLAMA3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What joins a mark to its neighbour without a space in a word-level vocabulary, as in OpenNMT's tokenizer.
JOINER: Final = "\uffed"
# A joiner of the text itself is doubled, and kept out of every vocabulary: it is reported as unknown.
OWN_JOINER: Final = JOINER * 2
# What sentencepiece spells a space with.
SPACE: Final = "\u2581"


@dataclass(frozen=True)
class Scheme:
    """How one kind of tokenizer cuts text into pre-tokens and joins tokens again.

    `cut` matches where a text may be divided so that its parts encode to the tokens of the whole; what it
    matches is dropped. Only a stretch of more than `longest` characters without such a place is cut through.
    """

    normalizer: Normalizer | None
    pre_tokenizer: PreTokenizer
    decoder: Decoder
    cut: re.Pattern[str]
    longest: int = 0

    def fits(self, backend: Backend) -> bool:
        """Whether a tokenizer cuts and joins text by this scheme."""
        return self.splits(backend) and state(backend.decoder) == state(self.decoder)

    def splits(self, backend: Backend) -> bool:
        """Whether a tokenizer cuts text by this scheme, however it joins it."""
        pairs = [(backend.normalizer, self.normalizer), (backend.pre_tokenizer, self.pre_tokenizer)]
        return all(state(theirs) == state(ours) for theirs, ours in pairs)


def state(component: Any) -> Any:
    """The JSON of a normalizer, pre-tokenizer or decoder as Python values; None for an absent one."""
    return None if component is None else json.loads(component.__getstate__())


def chunks(text: str, scheme: Scheme, size: int) -> Iterator[str]:
    """Cut a text into chunks of `size` or more characters that encode to the tokens of the whole.

    It is cut through where the next place to cut is further off than both `size` and `scheme.longest`.
    """
    reach = size + max(size, scheme.longest)
    start = 0
    while len(text) - start > 2 * size:
        limit = start + reach
        found = scheme.cut.search(text, start + size, limit)
        stop, resume = found.span() if found else (limit, limit)
        yield text[start:stop]
        start = resume
    yield text[start:]


def _bpe() -> Scheme:
    """Byte-level BPE as Llama 3 does it: every string of Unicode text survives.

    No pre-token goes on after a line break, or from other text to a space, or from a letter or digit to a
    punctuation mark. Python's idea of white space contains the regex engine's, so these cuts are safe.
    """
    pattern = Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False)
    letter = "A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5"
    return Scheme(
        normalizer=None,
        pre_tokenizer=PreTokenizerSequence([pattern, ByteLevel(add_prefix_space=False, use_regex=False)]),
        decoder=ByteLevelDecoder(),
        cut=re.compile(rf"(?<=[\r\n])(?=\S)|(?<=\S)(?= )|(?<=[{letter}])(?=[.,;:!?…。，、！？；：])"),
    )


def _word() -> Scheme:
    """Words, punctuation marks, line breaks and runs of other white space.

    One space between two words or marks is implied, so a word is the same token wherever it stands. A mark
    carries a joiner on each side where it touches its neighbour: "dogs." is "dogs" and "￭.", but "dogs ." is
    "dogs" and ".". White space other than the implied is a token of its own.
    """
    # Spelled out, as the engine's \w and [^\w] overlap: both match "½".
    letter, j = r"\p{L}\p{M}\p{N}_", JOINER
    word, mark, inner = f"[{letter}]", rf"[^{letter}\s{j}]", "['’-]"
    joined = [
        Replace(j, OWN_JOINER),
        Replace(Regex(rf"(?<=\S)(?!(?<={word}){inner}{word})(?={mark})"), j),
        Replace(Regex(rf"(?<={mark})(?<!{word}{inner})(?={word})"), j),
    ]
    piece = rf"{OWN_JOINER}|{j}?{mark}(?:{j}(?={word}))?|{word}+(?:{inner}{word}+)*|\n|[^\S\n]+"
    pieces = [
        Split(Regex(r"(?<=\S) (?=\S)"), behavior="removed", invert=False),
        Split(Regex(piece), behavior="isolated", invert=False),
    ]
    # Tokens are laid out with a joiner before each; the lone ones that remain stand for the implied spaces.
    joints = rf"\A{j}+|{j}+\z|{j}{j}+|(?<=\s){j}|{j}(?=\s)"
    laid_out = [ReplaceToken(Regex(r"\A"), j), Fuse(), ReplaceToken(Regex(joints), ""), ReplaceToken(j, " ")]
    return Scheme(
        normalizer=NormalizerSequence(joined),
        pre_tokenizer=PreTokenizerSequence(pieces),
        decoder=DecoderSequence(laid_out),
        cut=re.compile(r"(?<=\n)(?=\S)|(?<=\S) (?=\S)"),
        longest=1_000_000,  # a joiner is lost where it is cut through
    )


def _char() -> Scheme:
    """One token a Unicode character."""
    return Scheme(
        normalizer=None,
        pre_tokenizer=Split(Regex(r"[\s\S]"), behavior="isolated", invert=False),
        decoder=Fuse(),
        cut=re.compile(""),
    )


def _byte() -> Scheme:
    """One token a byte of UTF-8."""
    return Scheme(
        normalizer=None,
        pre_tokenizer=ByteLevel(add_prefix_space=False, use_regex=False),
        decoder=ByteLevelDecoder(),
        cut=re.compile(""),
    )


def _spaced() -> Scheme:
    """Words with their spaces before them, and one before the first, as sentencepiece has them for Llama 1 and 2.

    A chunk begins after a space, since it gets one again. No other place is fit to cut.
    """
    return Scheme(
        normalizer=NormalizerSequence([Prepend(SPACE), Replace(" ", SPACE)]),
        pre_tokenizer=Split(Regex(f"{SPACE}+"), behavior="merged_with_next", invert=False),
        decoder=DecoderSequence([ReplaceToken(SPACE, " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)]),
        cut=re.compile(f"(?<=[^ {SPACE}]) (?=[\\s\\S])"),
        longest=1 << 40,
    )


SPACED: Final = _spaced()
SCHEMES: Final[dict[Kind, Scheme]] = {"bpe": _bpe(), "word": _word(), "char": _char(), "byte": _byte()}


def fitting_kind(backend: Backend) -> Kind | None:
    """The kind of a tokenizer that works like one of the four here; None for any other."""
    size = backend.get_vocab_size(with_added_tokens=False)
    candidates: dict[Kind, bool] = {
        "byte": isinstance(backend.model, BPE) and size == 2**8,
        "bpe": isinstance(backend.model, BPE),
        "word": isinstance(backend.model, WordLevel),
        "char": isinstance(backend.model, WordLevel),
    }
    return next((kind for kind, model in candidates.items() if model and SCHEMES[kind].fits(backend)), None)
