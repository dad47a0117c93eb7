"""Models of sentencepiece: trained by its trainer, or written by hand where its trainer wouldn't make them."""

import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
TEXT = [
    *(ROOT / "README.md").read_text().splitlines(),
    *(ROOT / "docs" / "design.md").read_text().splitlines(),
    *["犬と猫 が 走る。 naïve café e\u0301 😀😀 aaaa aaaaaaa  banana        ananas bananananana"] * 5,
]
# As published models of Llama have them.
LLAMA = {"split_digits": True, "allow_whitespace_only_pieces": True}
NORMAL, UNKNOWN, CONTROL, SYMBOL, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
FIRST = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
BYTES = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]


def trained(**options: Any) -> bytes:
    """The content of a tokenizer.model."""
    import sentencepiece  # noqa: PLC0415

    made = io.BytesIO()
    fixed = {"vocab_size": 600, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=made,
        minloglevel=2,
        **{**fixed, "remove_extra_whitespaces": False, **options},
    )
    return made.getvalue()


def varint(value: int) -> bytes:
    """An integer in protobuf's wire format, a negative one as its 64 bits."""
    value &= (1 << 64) - 1
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field in protobuf's wire format."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(text: str | bytes, score: float, kind: int) -> bytes:
    return field(1, field(1, text) + field(2, score) + field(3, kind))


def written(
    pieces: Iterable[tuple[str, float, int]],
    trainer: dict[int, int | str | bytes] | None = None,
    normalizer: dict[int, int | str | bytes] | None = None,
) -> bytes:
    """The content of a tokenizer.model with these pieces after the usual first ones, BPE with bytes unless said."""
    spec = {3: 2, 35: 1} | (trainer or {})
    first = [*FIRST, *(BYTES if spec[35] else [])]
    shaping = {1: "identity", 4: 0} | (normalizer or {})
    return b"".join(
        [
            *(piece(*one) for one in [*first, *pieces]),
            field(2, b"".join(field(number, value) for number, value in spec.items())),
            field(3, b"".join(field(number, value) for number, value in shaping.items())),
        ]
    )
