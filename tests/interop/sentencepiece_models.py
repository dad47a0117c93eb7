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

# What sentencepiece 0.2.3 says of text, and of ids that no text has, by bytes, space first and one space alone.
ENCODED = [
    ((True, True, False), " a  犬", [SPACE, f"{SPACE}a", SPACE, SPACE, "<0xE7>", "<0x8A>", "<0xAC>"]),
    ((True, False, False), " a  b", [f"{SPACE}a", SPACE, SPACE, "<0x62>"]),
    ((True, True, True), "  a  a ", [f"{SPACE}a", f"{SPACE}a"]),
    ((True, False, True), "  a  a ", ["a", f"{SPACE}a"]),
    ((False, True, True), " <unk> 犬犬", [SPACE, "<unk>", SPACE, "<unk>"]),
    ((False, True, True), "<s>", [SPACE, "<unk>"]),
]
DECODED = [
    ((True, True, False), ["<0xE7>", "<0x8A>", "<0xAC>", "<0xE7>"], "犬\ufffd"),
    ((True, True, False), ["<0xF0>", "<0x9F>", "<0x98>"], "\ufffd\ufffd\ufffd"),
    ((True, True, False), ["<0xFF>", "<0x61>", "<0xE7>", "a", "<0x8A>", "<0x0A>"], "\ufffda\ufffda\ufffd\n"),
    ((True, True, False), ["<0xED>", "<0xA0>", "<0x80>", "<0xC0>", "<0x80>"], "\ufffd" * 5),
    ((True, True, False), ["<0x20>", f"{SPACE}a"], "  a"),
    ((True, True, False), ["<unk>", f"{SPACE}a"], " \u2047  a"),
    ((True, True, False), [SPACE, f"{SPACE}a", SPACE], " a "),
    ((True, False, False), [f"{SPACE}a", "<0xE7>", f"{SPACE}a"], " a\ufffd a"),
    ((True, False, True), [SPACE, f"{SPACE}a", SPACE, SPACE], "a  "),
    ((True, True, True), ["<0x20>", SPACE, "<0xE7>"], "  \ufffd"),
    ((True, True, True), ["<unk>", SPACE], " \u2047  "),
    ((False, True, True), [SPACE, "<unk>", f"{SPACE}a"], " \u2047  a"),
    ((False, False, False), [SPACE, "<unk>"], "  \u2047 "),
]


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


def cornered(options: tuple[bool, bool, bool]) -> bytes:
    """The content of a tokenizer.model of few pieces, with bytes, a space first and one space alone, or without."""
    has_bytes, space_first, one_space = map(int, options)
    pieces = [(text, -float(at), NORMAL) for at, text in enumerate([SPACE, "a", f"{SPACE}a"])]
    return written(pieces, {35: has_bytes}, {3: space_first, 4: one_space})


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
