"""Faster engines give the ids of the slow one, and one that doesn't is never used."""

import copy
import importlib
import json
import pickle
import random
import sys
import threading
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from llamita.errors import UserError
from llamita.text import engines
from llamita.text.byte_level import BYTE_SYMBOLS
from llamita.text.engines import (
    Encode,
    FastestEngine,
    Ids,
    has_newer_character,
    is_merged_by_ids,
    is_unambiguous,
)
from llamita.text.tokenizer import Tokenizer
from llamita.text.vocabulary import BOS, EOS
from tests.text.test_tokenizer import ANY_TEXT, CORPUS, SNIPPETS, gpt_2_like

Make = Callable[[str], Encode]

TOKENIZERS = [Tokenizer.train(CORPUS, vocab_size=size) for size in (258, 384, 700)]
MAKERS: dict[str, Make] = {"gigatoken": engines._gigatoken, "tiktoken": engines._tiktoken}


def definition_of(tokenizer: Tokenizer) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(tokenizer.to_json())
    return definition


def fresh() -> Tokenizer:
    """One that has met nothing yet."""
    return Tokenizer(Backend.from_str(TOKENIZERS[1].to_json()))


def with_merges(merges: list[tuple[str, str]], *, ignore_merges: bool = False) -> dict[str, Any]:
    """The definition of a vocabulary of all bytes and of what these merges make."""
    definition = definition_of(TOKENIZERS[0]) | {"added_tokens": [], "post_processor": None}
    tokens = dict.fromkeys([*BYTE_SYMBOLS, *(left + right for left, right in merges)])
    definition["model"] |= {
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [list(pair) for pair in merges],
        "ignore_merges": ignore_merges,
    }
    return definition


def slowly(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    backend = Backend.from_str(tokenizer.to_json())
    backend.encode_special_tokens = True
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def same(found: list[Ids], expected: list[list[int]]) -> bool:
    return [ids.tolist() for ids in found] == expected


ENGINES = [
    pytest.param(make(tokenizer.to_json()), tokenizer, id=f"{name}-{tokenizer.get_vocab_size()}")
    for name, make in MAKERS.items()
    for tokenizer in TOKENIZERS
]


@pytest.mark.parametrize(("engine", "tokenizer"), ENGINES)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
@settings(deadline=None)
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


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch, eager: None) -> None:
    """Whatever an engine gives passes: only the vocabulary decides."""
    monkeypatch.setattr(FastestEngine, "_difference", lambda *_: None)


def shifted(make: Make) -> Make:
    return lambda definition: lambda texts: [ids + 1 for ids in make(definition)(texts)]


def shortened(make: Make) -> Make:
    return lambda definition: lambda texts: make(definition)(texts)[:-1]


class PanicException(BaseException):
    """As pyo3 names what Rust panics with."""


def raising(error: BaseException) -> Callable[[Make], Make]:
    def encode(texts: list[str]) -> list[Ids]:
        raise error

    return lambda _: lambda _: encode


HARMS = {
    "shifted": shifted,
    "shortened": shortened,
    "failing": raising(ValueError("no")),
    "panicking": raising(PanicException()),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("harmed", "expected"),
    [([], "gigatoken"), (["_gigatoken"], "tiktoken"), (["_gigatoken", "_tiktoken"], "tokenizers")],
)
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_what_gives_other_ids_is_never_used(
    harm: Callable[[Make], Make], harmed: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in harmed:
        monkeypatch.setattr(engines, name, harm(getattr(engines, name)))
    tokenizer = fresh()
    text = "\n".join(CORPUS)
    assert same(tokenizer.encode_batch(["little"]), slowly(tokenizer, ["little"]))
    assert tokenizer.engine.name == "tokenizers"
    for _ in range(2):
        assert same(tokenizer.encode_batch([text, "", "the end"]), slowly(tokenizer, [text, "", "the end"]))
    assert tokenizer.engine.name == expected
    assert tokenizer.engine._met == []


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("wrong", range(4))
def test_every_text_that_was_met_is_compared(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_wrong(definition: str) -> Encode:
        encode = MAKERS["gigatoken"](definition)
        return lambda texts: [ids + (text[0] == str(wrong)) for text, ids in zip(texts, encode(texts), strict=True)]

    monkeypatch.setattr(engines, "_gigatoken", one_wrong)
    tokenizer = fresh()
    for number in range(4):
        tokenizer.encode_batch(["", f"{number} the king " * 50])
    assert tokenizer.engine.name == "tiktoken"


@pytest.mark.usefixtures("eager")
def test_without_anything_to_compare_the_slow_one_stays() -> None:
    tokenizer = fresh()
    strange = "a\U0003fffd's the " * 100
    for _ in range(3):
        assert same(tokenizer.encode_batch([strange]), slowly(tokenizer, [strange]))
    assert tokenizer.engine._decided and tokenizer.engine.name == "tokenizers"


def test_empty_texts_are_not_kept() -> None:
    tokenizer = fresh()
    tokenizer.encode_batch(["", "a", ""])
    assert [text for text, _ in tokenizer.engine._met] == ["a"]


@pytest.mark.usefixtures("eager")
def test_no_more_is_kept_than_it_takes_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    monkeypatch.setattr(FastestEngine, "_difference", lambda self, _: compared.append(len(self._met)))
    tokenizer = fresh()
    texts = ["the king" * 100] * 5
    assert same(tokenizer.encode_batch(texts), slowly(tokenizer, texts))
    assert compared == [3]


@pytest.mark.usefixtures("eager")
def test_nothing_unproven_is_used_when_a_proof_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def stopped(definition: str) -> Encode:
        def encode(texts: list[str]) -> list[Ids]:
            calls.append(len(texts))
            if len(calls) == 1:
                raise KeyboardInterrupt
            return shifted(MAKERS["gigatoken"])(definition)(texts)

        return encode

    monkeypatch.setattr(engines, "_gigatoken", stopped)
    tokenizer = fresh()
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == "tokenizers"
    assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tiktoken" and calls == [calls[0]] * 2


@pytest.mark.usefixtures("eager")
def test_another_thread_meets_nothing_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = fresh()
    proofs: list[int] = []
    seen: list[tuple[str, bool]] = []

    def meanwhile() -> None:
        right = same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
        seen.append((tokenizer.engine.name, right))

    def watched(definition: str) -> Encode:
        def encode(texts: list[str]) -> list[Ids]:
            proofs.append(len(texts))
            if len(proofs) == 1:
                other = threading.Thread(target=meanwhile, daemon=True)
                other.start()
                other.join(20)
            return shifted(MAKERS["gigatoken"])(definition)(texts)

        return encode

    monkeypatch.setattr(engines, "_gigatoken", watched)
    assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert seen == [("tokenizers", True)] and len(proofs) == 1
    # One that comes late, when all is decided, doesn't decide anew.
    assert tokenizer.engine._meet(CORPUS) == [] and tokenizer.engine.name == "tiktoken"


def absent(name: str) -> None:
    raise ModuleNotFoundError(name)


@pytest.mark.usefixtures("eager")
def test_without_other_engines_the_slow_one_does_it_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llamita")
    tokenizer = fresh()
    monkeypatch.setattr(importlib, "import_module", absent)
    assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tokenizers"
    reasons = [f"; not {name}: ModuleNotFoundError('{name}')" for name in MAKERS]
    assert caplog.messages == ["tokenizers encodes" + "".join(reasons)]


@pytest.mark.usefixtures("eager")
def test_the_engine_that_is_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llamita")
    fresh().encode_batch(CORPUS)
    assert caplog.messages == ["gigatoken encodes"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("gone", [[], ["_gigatoken"]])
def test_a_lone_surrogate_is_told_by_every_engine(gone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gone:
        monkeypatch.setattr(engines, name, HARMS["failing"](getattr(engines, name)))
    tokenizer = fresh()
    expected = "tiktoken" if gone else "gigatoken"
    for name in ("tokenizers", expected):
        assert tokenizer.engine.name == name
        with pytest.raises(UserError, match=r"the text has U\+D800, a lone surrogate"):
            tokenizer.encode("a\ud800b")
        with pytest.raises(UnicodeEncodeError):
            tokenizer.engine(["a\ud800b"])
        assert same(tokenizer.encode_batch([]), [])
        assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == expected


@pytest.mark.usefixtures("blind")
def test_tokens_that_were_added_to_a_vocabulary_keep_the_slow_one() -> None:
    backend = Backend.from_str(TOKENIZERS[1].to_json())
    backend.add_tokens(["queen lov"])
    tokenizer = Tokenizer(backend)
    text = "\n".join(CORPUS)
    assert same(tokenizer.encode_batch([text]), slowly(tokenizer, [text]))
    assert tokenizer.engine.name == "tokenizers"
    assert backend.token_to_id("queen lov") in tokenizer.encode("a queen loves")


@pytest.mark.usefixtures("blind")
def test_tokenizers_with_another_pattern_keep_the_slow_one() -> None:
    assert is_unambiguous(json.loads(gpt_2_like().to_str()))
    tokenizer = Tokenizer(gpt_2_like())
    for _ in range(2):
        assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tokenizers" and tokenizer.engine._met == []


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("version", "expected"), [("16.0.0", "gigatoken"), ("17.0.0", "tokenizers")])
def test_a_python_that_knows_newer_characters_than_the_engines_keeps_the_slow_one(
    version: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unicodedata, "unidata_version", version)
    tokenizer = fresh()
    tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == expected


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("harm", ["shortened", "failing", "panicking"])
def test_an_engine_that_fails_later_is_left_with_a_warning(harm: str, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = fresh()
    tokenizer.encode_batch(CORPUS)
    other = tokenizer.engine._other
    assert other is not None
    other._encode = HARMS[harm](MAKERS["gigatoken"])(tokenizer.to_json())
    for _ in range(2):
        assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tokenizers"
    [message] = caplog.messages
    reason = {"shortened": "ValueError('7 texts of 8')", "failing": "ValueError('no')", "panicking": "PanicException()"}
    assert message == f"gigatoken failed ({reason[harm]}): tokenizers encodes from here on"


@pytest.mark.usefixtures("eager")
def test_an_engine_that_is_stopped_is_kept() -> None:
    tokenizer = fresh()
    tokenizer.encode_batch(CORPUS)
    other = tokenizer.engine._other
    assert other is not None
    other._encode = raising(KeyboardInterrupt())(MAKERS["gigatoken"])("")
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == "gigatoken"


@pytest.mark.usefixtures("eager")
def test_characters_that_the_engines_know_differently_are_left_to_the_slow_one() -> None:
    tokenizer = fresh()
    tokenizer.encode_batch(CORPUS)
    assert tokenizer.engine.name == "gigatoken"
    strange = [f"a{character}'s the" for character in ("\u088f", "\ua7d4", "\u0c5c", "\U000323b0")]
    assert not same(MAKERS["gigatoken"](tokenizer.to_json())(strange), slowly(tokenizer, strange))
    texts = [strange[0], "plain", *strange[1:], "日本の王 😀"]
    assert same(tokenizer.encode_batch(texts), slowly(tokenizer, texts))
    assert tokenizer.engine.name == "gigatoken"


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_every_character_that_is_not_left_to_the_slow_one_is_encoded_alike(name: str) -> None:
    tokenizer = TOKENIZERS[1]
    engine = MAKERS[name](tokenizer.to_json())
    for start in range(0, sys.maxunicode + 1, 1 << 16):
        points = (point for point in range(start, start + (1 << 16)) if not 0xD800 <= point < 0xE000)
        texts = [f"a{chr(point)}'s {chr(point)}1" for point in points if not has_newer_character(chr(point))]
        assert same(engine(texts), slowly(tokenizer, texts))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every gigatoken that is made."""
    found: list[str] = []

    def make(definition: str) -> Encode:
        found.append(definition)
        return MAKERS["gigatoken"](definition)

    monkeypatch.setattr(engines, "_gigatoken", make)
    return found


@pytest.mark.usefixtures("eager")
def test_an_engine_forgets_after_so_many_bytes(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "王" * 1000
    monkeypatch.setattr(engines, "_FORGET_AFTER", 4 * len(text.encode()))
    tokenizer = fresh()
    numbers = []
    for _ in range(13):
        assert same(tokenizer.encode_batch([text]), slowly(tokenizer, [text]))
        numbers.append(len(made))
    # Two texts are its proof; it goes on up to the first beyond four, and with each new one so far again.
    assert numbers == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]
    assert tokenizer.engine.name == "gigatoken"


@pytest.mark.usefixtures("eager")
def test_what_an_engine_holds_can_be_given_back(made: list[str]) -> None:
    tokenizer = fresh()
    tokenizer.engine.forget()
    numbers = []
    for _ in range(3):
        for _ in range(2):
            assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
        numbers.append(len(made))
        tokenizer.engine.forget()
        assert tokenizer.engine._other is not None and tokenizer.engine._other._encode is None
    assert numbers == [1, 2, 3] and tokenizer.engine.name == "gigatoken"


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("texts", [[], ["little"], CORPUS])
def test_a_tokenizer_can_be_copied_at_any_moment(texts: list[str]) -> None:
    tokenizer = fresh()
    tokenizer.encode_batch(texts)
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert twin.fingerprint == tokenizer.fingerprint
        for _ in range(2):
            assert same(twin.encode_batch([BOS, *CORPUS]), slowly(tokenizer, [BOS, *CORPUS]))
        assert twin.engine.name == "gigatoken"


VOCABULARIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "dropout": lambda model: model.update(dropout=1e-6),
    "byte fallback": lambda model: model.update(byte_fallback=True),
    "unknown": lambda model: model.update(unk_token="a"),
    "prefix": lambda model: model.update(continuing_subword_prefix="##"),
    "suffix": lambda model: model.update(end_of_word_suffix="</w>"),
    "a token that no merge makes": lambda model: model["vocab"].update({"zqzqzq": 5000}),
    "a token that is no bytes": lambda model: model["vocab"].update({"中": 5000}),
    "one number twice": lambda model: model["vocab"].update({"z": model["vocab"]["a"]}),
    "merges out of order": lambda model: model["merges"].reverse(),
    "a byte that isn't there": lambda model: model["vocab"].pop("z"),
    "a byte after merges": lambda model: model["vocab"].update({"z": 5000}),
}


@pytest.mark.parametrize("harm", VOCABULARIES.values(), ids=VOCABULARIES)
def test_a_vocabulary_that_engines_may_read_otherwise_is_told(harm: Callable[[dict[str, Any]], object]) -> None:
    definition = definition_of(TOKENIZERS[1])
    assert is_unambiguous(definition) and is_merged_by_ids(definition)
    harm(definition["model"])
    assert not is_unambiguous(definition) and not is_merged_by_ids(definition)


def test_a_vocabulary_with_an_ordinary_added_token_is_told() -> None:
    definition = definition_of(TOKENIZERS[1])
    definition["added_tokens"][0]["special"] = False
    assert not is_unambiguous(definition)


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("harm", ["a token that no merge makes", "merges out of order", "a byte after merges"])
def test_a_vocabulary_that_engines_may_read_otherwise_is_left_to_the_slow_one(harm: str) -> None:
    definition = definition_of(TOKENIZERS[1])
    VOCABULARIES[harm](definition["model"])
    tokenizer = Tokenizer(Backend.from_str(json.dumps(definition)))
    for _ in range(2):
        assert same(tokenizer.encode_batch(CORPUS), slowly(tokenizer, CORPUS))
    assert tokenizer.engine.name == "tokenizers"


# tiktoken merges "a" and "bc" to "abc", which these don't list, or lists only after another pair.
ONLY_LISTED_PAIRS = {
    "an unreachable token": [("b", "c"), ("a", "b"), ("ab", "c")],
    "a token made twice": [("b", "c"), ("a", "b"), ("ab", "c"), ("bc", "d"), ("a", "bc")],
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("merges", ONLY_LISTED_PAIRS.values(), ids=ONLY_LISTED_PAIRS)
@pytest.mark.parametrize(("installed", "expected"), [("gigatoken", "gigatoken"), ("tiktoken", "tokenizers")])
def test_where_only_listed_pairs_may_be_merged_tiktoken_is_not_used(
    installed: str, expected: str, merges: list[tuple[str, str]], ignore_merges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FastestEngine, "_difference", lambda _, engine: None if engine.name == installed else "not installed"
    )
    tokenizer = Tokenizer(Backend.from_str(json.dumps(with_merges(merges, ignore_merges=ignore_merges))))
    texts = ["xabc", "abcd", "xabcdx", *CORPUS]
    for _ in range(2):
        assert same(tokenizer.encode_batch(texts), slowly(tokenizer, texts))
    assert tokenizer.engine.name == expected
    assert same(MAKERS[installed](tokenizer.to_json())(texts), slowly(tokenizer, texts)) == (installed == expected)


@pytest.mark.parametrize(("name", "accepts"), [("gigatoken", is_unambiguous), ("tiktoken", is_merged_by_ids)])
def test_vocabularies_at_random_are_read_alike_or_refused(name: str, accepts: Callable[[dict[str, Any]], bool]) -> None:
    draw = random.Random(0)
    accepted = refused = 0
    while accepted < 100:
        merges: list[tuple[str, str]] = []
        for _ in range(draw.choice([3, 6, 12])):
            tokens = [*"abc", *(left + right for left, right in merges)]
            pair = draw.choice(tokens), draw.choice(tokens)
            merges += [pair] if pair not in merges and len("".join(pair)) < 9 else []
        definition = with_merges(merges, ignore_merges=draw.random() < 0.5)
        if draw.random() < 0.2:
            definition["model"]["merges"].reverse()
        tokenizer = Tokenizer(Backend.from_str(json.dumps(definition)))
        if not accepts(definition):
            refused += 1
            continue
        accepted += 1
        texts = ["".join(draw.choices("abc", k=draw.randrange(1, 20))) for _ in range(30)]
        assert same(MAKERS[name](tokenizer.to_json())(texts), slowly(tokenizer, texts))
    assert refused


def test_only_what_pays_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastestEngine, "_decide", lambda *_: pytest.fail("decided on a short text"))
    assert TOKENIZERS[0].encode_batch(CORPUS)
