"""Faster engines give the ids of the slow one, and one that doesn't is never used."""

import importlib
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from llamita.errors import UserError
from llamita.text import engines
from llamita.text.engines import Encode, FastestEngine, Ids, has_newer_character, is_unambiguous
from llamita.text.tokenizer import Tokenizer
from llamita.text.vocabulary import BOS, EOS
from tests.text.test_tokenizer import ANY_TEXT, CORPUS, SNIPPETS

TOKENIZERS = [Tokenizer.train(CORPUS, vocab_size=size) for size in (258, 384, 700)]
MAKERS: dict[str, Callable[[dict[str, Any]], Encode]] = {
    "gigatoken": engines._gigatoken,
    "tiktoken": engines._tiktoken,
}


def definition_of(tokenizer: Tokenizer) -> dict[str, Any]:
    definition: dict[str, Any] = engines.json.loads(tokenizer.to_json())
    return definition


def slowly(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    backend = Backend.from_str(tokenizer.to_json())
    backend.encode_special_tokens = True
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def same(found: list[Ids], expected: list[list[int]]) -> bool:
    return [ids.tolist() for ids in found] == expected


ENGINES = [
    pytest.param(make(definition_of(tokenizer)), tokenizer, id=f"{name}-{tokenizer.get_vocab_size()}")
    for name, make in MAKERS.items()
    for tokenizer in TOKENIZERS
]


@pytest.mark.parametrize(("engine", "tokenizer"), ENGINES)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_an_engine_gives_the_ids_of_the_slow_one(engine: Encode, tokenizer: Tokenizer, texts: list[str]) -> None:
    found = engine(texts)
    assert all(ids.dtype == np.uint32 for ids in found)
    assert same(found, slowly(tokenizer, texts))


@pytest.mark.parametrize(("engine", "tokenizer"), ENGINES)
def test_ten_thousand_strings_of_what_breaks_tokenizers(engine: Encode, tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    pieces = [
        *SNIPPETS,
        BOS,
        EOS,
        "<|reserved_0|>",
        " ",
        "\n",
        "\r\n",
        "\u2028",
        "\x85",
        "é",
        "́",
        "👩‍👩‍👧",
        "中文",
        "0",
        "123456",
    ]
    texts = ["".join(draw.choices(pieces, k=draw.randrange(12))) for _ in range(10_000)]
    assert same(engine(texts), slowly(tokenizer, texts))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide on the second text already."""
    monkeypatch.setattr(engines, "_WORTHWHILE", 2000)
    monkeypatch.setattr(engines, "_PROOF", 500)


def shifted(make: Callable[[dict[str, Any]], Encode]) -> Callable[[dict[str, Any]], Encode]:
    return lambda definition: lambda texts: [ids + 1 for ids in make(definition)(texts)]


def shortened(make: Callable[[dict[str, Any]], Encode]) -> Callable[[dict[str, Any]], Encode]:
    return lambda definition: lambda texts: make(definition)(texts)[:-1]


class PanicException(BaseException):
    """As pyo3 names what Rust panics with."""


def panicking(make: Callable[[dict[str, Any]], Encode]) -> Callable[[dict[str, Any]], Encode]:
    def encode(texts: list[str]) -> list[Ids]:
        raise PanicException

    return lambda _: encode


def failing(make: Callable[[dict[str, Any]], Encode]) -> Callable[[dict[str, Any]], Encode]:
    def encode(texts: list[str]) -> list[Ids]:
        raise ValueError("no")

    return lambda _: encode


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("harm", [None, shifted, shortened, failing, panicking])
@pytest.mark.parametrize("harmed", [["_gigatoken"], ["_gigatoken", "_tiktoken"]])
def test_what_gives_other_ids_is_never_used(
    harm: Callable[[Any], Any] | None, harmed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in harmed if harm is not None else []:
        monkeypatch.setattr(engines, name, harm(getattr(engines, name)))
    tokenizer = Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))
    text = "\n".join(CORPUS)
    assert same(tokenizer.encode_batch(["little"]), slowly(tokenizer, ["little"]))
    assert tokenizer.engine.name == "tokenizers"
    for _ in range(2):
        assert same(tokenizer.encode_batch([text, ""]), slowly(tokenizer, [text, ""]))
    expected = "gigatoken" if harm is None else "tiktoken" if len(harmed) == 1 else "tokenizers"
    assert tokenizer.engine.name == expected


@pytest.mark.usefixtures("eager")
def test_without_other_engines_the_slow_one_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    tokenizer = Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))
    monkeypatch.setattr(importlib, "import_module", absent)
    assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tokenizers"


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("gone", [[], ["_gigatoken"]])
def test_a_lone_surrogate_is_told_by_every_engine(gone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gone:
        monkeypatch.setattr(engines, name, failing(getattr(engines, name)))
    tokenizer = Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))
    tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == ("tiktoken" if gone else "gigatoken")
    with pytest.raises(UserError, match=r"the text has U\+D800, a lone surrogate"):
        tokenizer.encode("a\ud800b")
    assert same(tokenizer.encode_batch([]), [])


@pytest.mark.usefixtures("eager")
def test_tokens_that_were_added_to_a_vocabulary_keep_the_slow_one() -> None:
    backend = Backend.from_str(TOKENIZERS[1].to_json())
    backend.add_tokens(["queen lov"])
    tokenizer = Tokenizer(backend)
    text = "\n".join(CORPUS)
    assert same(tokenizer.encode_batch([text]), slowly(tokenizer, [text]))
    assert tokenizer.engine.name == "tokenizers"
    assert backend.token_to_id("queen lov") in tokenizer.encode("a queen loves")


@pytest.mark.usefixtures("eager")
def test_an_engine_that_fails_later_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))
    tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == "gigatoken"
    tokenizer.engine._encode = panicking(MAKERS["gigatoken"])({})
    assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tokenizers"


@pytest.mark.usefixtures("eager")
def test_characters_that_the_engines_know_differently_are_left_to_the_slow_one() -> None:
    tokenizer = Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))
    tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == "gigatoken"
    strange = [f"a{character}'s the" for character in ("\u088f", "\ua7d4", "\u0c5c", "\U000323b0")]
    assert not same(MAKERS["gigatoken"](definition_of(tokenizer))(strange), slowly(tokenizer, strange))
    texts = [strange[0], "plain", *strange[1:], "日本の王 😀"]
    assert same(tokenizer.encode_batch(texts), slowly(tokenizer, texts))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_every_character_that_is_not_left_to_the_slow_one_is_encoded_alike(name: str) -> None:
    tokenizer = TOKENIZERS[1]
    engine = MAKERS[name](definition_of(tokenizer))
    for start in range(0, sys.maxunicode + 1, 1 << 16):
        points = (point for point in range(start, start + (1 << 16)) if not 0xD800 <= point < 0xE000)
        texts = [f"a{chr(point)}'s {chr(point)}1" for point in points if not has_newer_character(chr(point))]
        assert same(engine(texts), slowly(tokenizer, texts))


@pytest.mark.usefixtures("eager")
def test_an_engine_forgets_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_FORGET_AFTER", 4000)
    made: list[int] = []
    make = engines._gigatoken
    monkeypatch.setattr(engines, "_gigatoken", lambda definition: made.append(1) or make(definition))
    tokenizer = Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))
    for _ in range(8):
        assert same(tokenizer.encode_batch(CORPUS[:2]), slowly(tokenizer, CORPUS[:2]))
    assert tokenizer.engine.name == "gigatoken" and len(made) > 2


HARMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "dropout": lambda model: model.update(dropout=1e-6),
    "byte fallback": lambda model: model.update(byte_fallback=True),
    "unknown": lambda model: model.update(unk_token="a"),
    "suffix": lambda model: model.update(end_of_word_suffix="</w>"),
    "a token that no merge makes": lambda model: model["vocab"].update({"zqzqzq": 5000}),
    "a token that is no bytes": lambda model: model["vocab"].update({"中": 5000}),
    "one number twice": lambda model: model["vocab"].update({"z": model["vocab"]["a"]}),
    "merges out of order": lambda model: model["merges"].reverse(),
    "a byte that isn't there": lambda model: model["vocab"].pop("z"),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_vocabulary_that_engines_may_read_otherwise_is_left_to_the_slow_one(
    harm: Callable[[dict[str, Any]], object],
) -> None:
    definition = definition_of(TOKENIZERS[1])
    assert is_unambiguous(definition)
    harm(definition["model"])
    assert not is_unambiguous(definition)


def test_only_what_pays_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastestEngine, "_decide", lambda *_: pytest.fail("decided on a short text"))
    assert TOKENIZERS[0].encode_batch(CORPUS)
