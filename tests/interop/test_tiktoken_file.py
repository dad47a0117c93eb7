"""A file of tiktoken's read here gives the ids that tiktoken gives, or is refused by its line."""

import json
import random
from base64 import b64encode
from collections.abc import Iterator
from functools import cache

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llamita.interop import tiktoken_file
from llamita.interop.tiktoken_file import is_tiktoken, llama3_special_tokens, tiktoken_tokenizer
from llamita.text.byte_level import token_bytes
from llamita.text.engines import has_newer_character
from llamita.text.splitting import LLAMA3_PATTERN
from llamita.text.tokenizer import Tokenizer
from tests.interop.sentencepiece_models import TEXT

WORDS = " ".join(TEXT).split()
ODD = [*"ab  \n\r\t\0犬😀é'<|123", "\u0301", "\u00a0", "<|eot_id|>", "don't", "   "]
CHARACTERS = st.text(st.characters(exclude_categories=["Cs", "Cn"]))


@cache
def ranks(vocab_size: int, *, shuffled: bool = False) -> dict[bytes, int]:
    """The ranks of a tokenizer that is trained here; shuffled: in an order that training would never give."""
    vocab = json.loads(Tokenizer.train(TEXT, vocab_size=vocab_size).to_json())["model"]["vocab"]
    found = {token_bytes(token): number for token, number in vocab.items()}
    if shuffled:
        numbers = list(found.values())
        random.Random(0).shuffle(numbers)
        found = dict(zip(found, numbers, strict=True))
    return found


def written(tokens: dict[bytes, int]) -> bytes:
    lines = (b"%s %d\n" % (b64encode(token), rank) for token, rank in sorted(tokens.items(), key=lambda one: one[1]))
    return b"".join(lines)


@cache
def both(vocab_size: int, *, shuffled: bool = False) -> tuple[tiktoken.Encoding, Tokenizer]:
    tokens = ranks(vocab_size, shuffled=shuffled)
    theirs = tiktoken.Encoding("x", pat_str=LLAMA3_PATTERN, mergeable_ranks=tokens, special_tokens={})
    return theirs, Tokenizer(tiktoken_tokenizer(written(tokens)))


def texts(number: int) -> Iterator[str]:
    draw = random.Random(1)
    for _ in range(number):
        yield draw.choice(["", " ", "\n"]).join(draw.choices(draw.choice([ODD, WORDS + ODD]), k=draw.randint(0, 15)))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("vocab_size", [300, 1024, 2048])
def test_thousands_of_texts_have_the_ids_that_tiktoken_gives(vocab_size: int, shuffled: bool) -> None:
    theirs, ours = both(vocab_size, shuffled=shuffled)
    assert ours.get_vocab_size() == theirs.n_vocab and ours.kind == "bpe" and ours.lossless
    for text in texts(2000):
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text
    for token, rank in ranks(vocab_size, shuffled=shuffled).items():
        assert ours.byte_table is not None and ours.byte_table[rank] == token


@given(text=st.lists(st.sampled_from(ODD) | CHARACTERS, max_size=15).map("".join))
@settings(max_examples=200, deadline=None)
def test_any_text_at_all_has_the_ids_that_tiktoken_gives(text: str) -> None:
    theirs, ours = both(1024)
    if not has_newer_character(text):
        assert ours.encode(text) == theirs.encode_ordinary(text)


def test_a_token_that_no_merges_make_is_still_a_word() -> None:
    tokens = ranks(300) | {b"xyzzy": len(ranks(300))}
    theirs = tiktoken.Encoding("x", pat_str=LLAMA3_PATTERN, mergeable_ranks=tokens, special_tokens={})
    ours = Tokenizer(tiktoken_tokenizer(written(tokens)))
    for text in ("xyzzy", "xyzzy xyzzy", "xyzzyx", " xyzzy", "1xyzzy"):
        assert ours.encode(text) == theirs.encode_ordinary(text)


def test_the_special_tokens_are_those_that_meta_documents() -> None:
    names = llama3_special_tokens()
    assert len(names) == len(set(names)) == 256
    assert names[:2] == ["<|begin_of_text|>", "<|end_of_text|>"]
    assert [names[at] for at in (5, 6, 7, 8, 9, 10)] == [
        *["<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>"],
        *["<|reserved_special_token_4|>", "<|eot_id|>", "<|reserved_special_token_5|>"],
    ]
    assert names[-1] == "<|reserved_special_token_250|>"


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (written(BYTES) + b"YWI= x\n", "line 257 is b'YWI= x'"),
        (written(BYTES) + b"YWI= -1\n", "line 257"),
        (written(BYTES) + b"YWI= " + b"9" * 5000, "line 257"),
        (written(BYTES) + b"YWI 256\n", "no base64"),
        (written(BYTES) + b"YWI= 256\nYWI= 257\n", "b'ab' is there twice"),
        (written(BYTES) + b"YWI= 255\n", "rank 255 is there twice"),
        (written(BYTES) + b"YWI= 300\n", "rank 300 is there twice, or the one before it isn't"),
        (written({**BYTES, b"ab": 256, b"bc": 257, b"cd": 258, b"de": 259}), "is one too many"),
        (written({token: rank for token, rank in BYTES.items() if rank != 10}), "the byte 10 is no token"),
        (written(BYTES | {b"a" * 20_000: 256}), "longer, or more"),
        (b"", "the byte 0 is no token"),
    ],
)
def test_what_is_damaged_is_refused_by_its_line(content: bytes, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken_file, "_TOKENS", 259)
    with pytest.raises(ValueError, match=told):
        tiktoken_tokenizer(content)


def test_the_two_kinds_of_files_are_told_apart() -> None:
    assert is_tiktoken(written(BYTES)) and is_tiktoken(b"IQ== 0\r\nIg== 1\r\n") and is_tiktoken(b"IQ== 0")
    assert not any(map(is_tiktoken, (b"", b"\n\x0e\n\x05<unk>", b"version https://git-lfs.github.com", b"IQ==")))
