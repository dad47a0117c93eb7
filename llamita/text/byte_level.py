"""Tokens of bytes: the printable symbol of each byte, what a token of such symbols stands for, and byte fallback."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from tokenizers import Tokenizer as Backend

from llamita.text.splitting import state


def _symbols() -> tuple[str, ...]:
    """The character for each byte, as in GPT-2: itself where printable, else the next one from U+0100."""
    spans = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    printable = {byte for first, last in spans for byte in range(ord(first), ord(last) + 1)}
    spare = itertools.count(256)
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


BYTE_SYMBOLS: Final = _symbols()
_BYTE_OF: Final = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}
BYTE_TOKEN: Final = re.compile("<0x[0-9A-F]{2}>")  # what a vocabulary that isn't byte-level falls back to
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
_FALLBACK: Final = b'"type":"ByteFallback"'


def token_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; a token with other characters stands for itself."""
    try:
        return bytes(_BYTE_OF[symbol] for symbol in token)
    except KeyError:
        return token.encode()


def readable(piece: bytes) -> str:
    """Bytes as text, with each byte that is no text by itself spelled like <0xE2>."""
    text = piece.decode("utf-8", "surrogateescape")
    return _ESCAPED_BYTE.sub(lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", text)


def decoded(backend: Backend, ids: Sequence[int]) -> str:
    """The text of ids, in which a byte token that is part of no character shows as U+FFFD, as in sentencepiece.

    tokenizers would show all bytes of a run so, those of whole characters too.
    """
    tokens = [token for number in ids if (token := backend.id_to_token(number)) is not None]
    decoder = backend.decoder if any(map(BYTE_TOKEN.fullmatch, tokens)) else None
    if decoder is None or _FALLBACK not in decoder.__getstate__():
        return backend.decode(ids, skip_special_tokens=False)
    text: str = decoder.decode(list(_mended(tokens)))
    return text


def _mended(tokens: Iterable[str]) -> Iterator[str]:
    for are_bytes, run in itertools.groupby(tokens, lambda token: BYTE_TOKEN.fullmatch(token) is not None):
        if not are_bytes:
            yield from run
            continue
        for character in bytes(int(token[3:5], 16) for token in run).decode("utf-8", "surrogateescape"):
            is_torn = _ESCAPED_BYTE.match(character)
            yield from ["\ufffd"] if is_torn else (f"<0x{byte:02X}>" for byte in character.encode())


def is_byte_level(backend: Backend) -> bool:
    """Whether tokens are spelled in byte symbols and decode to the bytes that these stand for."""
    return [step["type"] for step in steps(backend.decoder, "decoders")] == ["ByteLevel"]


def numbers_bytes(backend: Backend) -> bool:
    """Whether the token of each byte has the byte for its id."""
    return all(backend.token_to_id(symbol) == byte for byte, symbol in enumerate(BYTE_SYMBOLS))


def loses_nothing(backend: Backend) -> bool:
    """Whether every string survives encoding and decoding by a byte-level tokenizer of any origin."""
    if backend.normalizer is not None or not is_byte_level(backend):
        return False
    taken = steps(backend.pre_tokenizer, "pretokenizers")
    kept = all(_keeps_text(step) for step in taken) and any(step["type"] == "ByteLevel" for step in taken)
    whole = all(backend.token_to_id(symbol) is not None for symbol in BYTE_SYMBOLS)
    added = [token for token in backend.get_added_tokens_decoder().values() if not token.special]
    exact = all(
        token_bytes(token.content) == token.content.encode() and not (token.lstrip or token.rstrip) for token in added
    )
    return kept and whole and exact


def steps(component: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer, which may be a sequence, as JSON objects."""
    spec = state(component)
    if spec is None:
        return []
    return list(spec[inner]) if spec["type"] == "Sequence" else [spec]


def _keeps_text(step: dict[str, Any]) -> bool:
    """Whether a step of a pre-tokenizer neither adds nor removes characters."""
    match step["type"]:
        case "ByteLevel":
            return step["add_prefix_space"] is False
        case "Split":
            return str(step["behavior"]) != "Removed"
        case other:
            return str(other) == "Digits"
