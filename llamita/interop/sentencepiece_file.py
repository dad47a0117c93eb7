"""What a tokenizer.model of sentencepiece says.

https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from llamita.interop.wire_format import Message, content, fields, number
from llamita.text.splitting import SPACE

_PIECES = 1 << 19
_MODELS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_UNKNOWN_SHOWN = " \N{DOUBLE QUESTION MARK} "


class Kind(IntEnum):
    """What a piece is."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What such a file says: score and kind of each piece, in the order of ids, and how text is shaped before."""

    pieces: Mapping[str, tuple[float, Kind]]
    byte_fallback: bool
    dummy_prefix: bool
    one_space: bool
    unknown_shown: str
    bos: str
    eos: str

    def named(self, *kinds: Kind) -> list[str]:
        """The pieces of some kinds, in the order of ids."""
        return [piece for piece, (_, kind) in self.pieces.items() if kind in kinds]

    @property
    def scores(self) -> dict[str, float]:
        """The pieces that text is joined to."""
        return {piece: score for piece, (score, kind) in self.pieces.items() if kind == Kind.NORMAL}


def read_model(data: bytes) -> Model:
    """The content of a file; ValueError if it is damaged, or says what can't be said here."""
    pieces: dict[str, tuple[float, Kind]] = {}
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    restored: dict[int, int | bytes] = {}
    specs = {2: trainer, 3: normalizer, 5: restored}
    for field, value in fields(data):
        if field in specs:
            specs[field].update(fields(content({field: value}, field)))
        elif field == 1:
            piece, score, kind = _piece(dict(fields(content({field: value}, field))))
            if piece in pieces or not piece or len(pieces) == _PIECES:
                reason = "is there twice" if piece in pieces else "is one too many" if piece else "is empty"
                raise ValueError(f"piece {len(pieces)}, {piece[:40]!r}, {reason}")
            pieces[piece] = score, kind
    _check_specs(trainer, normalizer, restored)
    model = Model(
        pieces=pieces,
        byte_fallback=bool(number(trainer, 35, 0)),
        dummy_prefix=bool(number(normalizer, 3, 1)),
        one_space=bool(number(normalizer, 4, 1)),
        unknown_shown=content(trainer, 44, _UNKNOWN_SHOWN.encode()).decode(),
        bos=content(trainer, 46, b"<s>").decode(),
        eos=content(trainer, 47, b"</s>").decode(),
    )
    _check_pieces(model)
    return model


def _piece(message: Message) -> tuple[str, float, Kind]:
    score = content(message, 2, bytes(4))
    if len(score) != 4 or not math.isfinite(value := struct.unpack("<f", score)[0]):
        raise ValueError("a score is no finite number")
    return content(message, 1).decode(), value, Kind(number(message, 3, Kind.NORMAL))


def _check_specs(trainer: Message, normalizer: Message, restored: Message) -> None:
    kind = number(trainer, 3, 1)
    if _MODELS.get(kind) != "bpe":
        raise ValueError(f"model_type is {_MODELS.get(kind, kind)}; only bpe can be read")
    if content(normalizer, 2) or content(restored, 2):
        name = content(normalizer, 1).decode()
        raise ValueError(
            f"it changes characters by rules of its own ({name or 'precompiled_charsmap'}); only identity can be read"
        )
    if number(trainer, 24, 0):
        raise ValueError("treat_whitespace_as_suffix is on; only spaces before words can be read")
    if not number(normalizer, 5, 1):
        raise ValueError(f"escape_whitespaces is off; only spaces as {SPACE} can be read")


def _check_pieces(model: Model) -> None:
    symbols, unused = model.named(Kind.USER_DEFINED), model.named(Kind.UNUSED)
    if len(model.named(Kind.UNKNOWN)) != 1:
        raise ValueError(f"{len(model.named(Kind.UNKNOWN))} pieces stand for what is unknown; one must")
    if sorted(model.named(Kind.BYTE)) != (_BYTES if model.byte_fallback else []):
        raise ValueError("byte_fallback needs one piece for each byte, and they it")
    if unused:
        raise ValueError(f"piece {unused[0]!r} is marked as unused; a piece can't be taken away here")
    if model.one_space and any(" " in symbol for symbol in symbols):
        raise ValueError("a symbol defined by the user has a space, and remove_extra_whitespaces is on")
    if SPACE in model.unknown_shown:
        raise ValueError(f"unk_surface is {model.unknown_shown!r}, whose {SPACE} would be a space here")
    for piece, (_, kind) in model.pieces.items():
        _check_piece(piece, kind, model)


def _check_piece(piece: str, kind: Kind, model: Model) -> None:
    if len(piece) == 1 and kind in (Kind.UNKNOWN, Kind.CONTROL):
        raise ValueError(f"piece {piece!r} stands for no text, and couldn't be told from the character here")
    if model.one_space and piece.startswith(2 * SPACE):
        raise ValueError(f"piece {piece!r} begins with two spaces, and remove_extra_whitespaces is on")
    if SPACE in piece and SPACE not in model.pieces:
        raise ValueError(f"piece {piece!r} has a space, and {SPACE!r} is no piece itself")
