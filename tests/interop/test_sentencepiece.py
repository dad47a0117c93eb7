"""A tokenizer.model read here gives the ids and the text that sentencepiece gives, or is refused by its reason."""

import random
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamita.interop import sentencepiece_file
from llamita.interop.sentencepiece_bpe import sentencepiece_tokenizer
from llamita.text.streaming import StreamDecoder
from llamita.text.tokenizer import Tokenizer
from tests.interop.sentencepiece_models import (
    BYTE,
    CONTROL,
    DECODED,
    ENCODED,
    LLAMA,
    NORMAL,
    SPACE,
    SYMBOL,
    TEXT,
    UNKNOWN,
    UNUSED,
    cornered,
    field,
    piece,
    trained,
    varint,
    written,
)

sentencepiece = pytest.importorskip("sentencepiece")

RARE = {"byte_fallback": False, "character_coverage": 0.98}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "larger": {**LLAMA, "vocab_size": 1500},
    "as trained by default": {},
    "without a space first": {"add_dummy_prefix": False},
    "one space": {"remove_extra_whitespaces": True},
    "one space, none first": {"remove_extra_whitespaces": True, "add_dummy_prefix": False},
    "unknown": RARE,
    "unknown, one space": {**RARE, "remove_extra_whitespaces": True, "add_dummy_prefix": False},
    "across spaces": {"split_by_whitespace": False},
    "control": {"control_symbols": ["<ctl>", "[INST]"]},
    "symbols": {**LLAMA, "user_defined_symbols": ["<sep>", "na", "\n", "banan", f"{SPACE}{SPACE}x", f"a{SPACE}b"]},
    "symbols of one character": {"user_defined_symbols": ["\n", "a"]},
    "symbols, no space first": {"add_dummy_prefix": False, "user_defined_symbols": ["<sep>", "ab", "(", "[x]*."]},
    "symbols, unknown": {**RARE, "user_defined_symbols": ["<sep>", "na"]},
    "symbols, one space": {"remove_extra_whitespaces": True, "user_defined_symbols": ["<sep>", "na", SPACE]},
}
ODD = [
    *"aaabn xent<>s/0x0A  \n\t\r\0é犬😀(]*.[",
    *["\u0301", "\u200d", "👩", "\u00a0", "\u3000", SPACE, "\u2047", "\ufffd", "\ufffe", "<s>", "</s>", "<unk>"],
    *["<0x0A>", "<sep>", "<ctl>", "banana", " the", "  ", "   "],
]
WORDS = " ".join(TEXT).split()
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]))
MIXED = st.lists(st.sampled_from([*ODD, *WORDS[::20]]) | CHARACTERS, max_size=20).map("".join)


@cache
def both(name: str) -> tuple[Any, Tokenizer]:
    """The processor of sentencepiece, and ours, of a model."""
    return pair(trained(**MODELS[name]))


def pair(content: bytes) -> tuple[Any, Tokenizer]:
    return sentencepiece.SentencePieceProcessor(model_proto=content), tokenizer(content)


def tokenizer(content: bytes) -> Tokenizer:
    backend, told = sentencepiece_tokenizer(content)
    return Tokenizer(backend, told)


def texts(number: int, seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    for _ in range(number):
        glue = draw.choice(["", "", " ", " \n", "  "])
        yield glue.join(draw.choices(draw.choice([ODD, WORDS + ODD, list("abn ")]), k=draw.randint(0, 25)))


def check(theirs: Any, ours: Tokenizer, text: str) -> None:
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("name", MODELS)
def test_thousands_of_texts_have_the_ids_and_come_back_as_the_text_that_sentencepiece_gives(name: str) -> None:
    theirs, ours = both(name)
    names = [theirs.id_to_piece(number) for number in range(len(theirs))]
    assert [ours.id_to_token(number) for number in range(ours.get_vocab_size())] == names
    for text in ["", *names, *(f"<sep>{name}<sep>" for name in names), *texts(2000, 1)]:
        check(theirs, ours, text)


@pytest.mark.parametrize("name", MODELS)
def test_ids_that_no_text_has_give_the_text_that_sentencepiece_gives_at_once_and_as_they_come(name: str) -> None:
    theirs, ours = both(name)
    draw, ordinary = random.Random(8), [number for number in range(len(theirs)) if not theirs.is_control(number)]
    pools = [ordinary, [number for number in ordinary if theirs.id_to_piece(number).startswith(SPACE)], [0]]
    numbers = [number for number in ordinary if theirs.is_byte(number)]
    for _ in range(1000):
        ids = [draw.choice(draw.choice(pools)) for _ in range(draw.randint(1, 6))]
        torn = "".join(draw.choices("aé犬😀 \n", k=3)).encode()[draw.randint(0, 4) : draw.randint(0, 12)]
        at = draw.randint(0, len(ids))
        ids[at:at] = [numbers[byte] for byte in torn if numbers]
        stream = StreamDecoder(ours)
        assert ours.decode(ids) == theirs.decode(ids) == "".join([*map(stream.push, ids), stream.flush()])


def test_what_is_written_down_of_sentencepiece_is_what_it_says() -> None:
    def theirs(options: tuple[bool, bool, bool]) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=cornered(options))

    for options, text, tokens in ENCODED:
        assert theirs(options).id_to_piece(theirs(options).encode(text)) == tokens
    for options, tokens, text in DECODED:
        assert theirs(options).decode([theirs(options).piece_to_id(token) for token in tokens]) == text


@pytest.mark.parametrize("name", ["llama", "symbols", "unknown"])
@given(text=MIXED)
@example(text=" ")
@example(text="\0")
@example(text=f" {SPACE} a{SPACE}")
@settings(max_examples=150, deadline=None)
def test_any_text_at_all_has_the_ids_that_sentencepiece_gives(name: str, text: str) -> None:
    check(*both(name), text)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_and_loaded_again_gives_the_same(name: str, tmp_path: Any) -> None:
    _, ours = both(name)
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == ours.fingerprint
    for text in texts(200, 2):
        assert again.encode(text) == ours.encode(text)
        assert again.decode(ours.encode(text)) == ours.decode(ours.encode(text))


@pytest.mark.parametrize("name", ["llama", "symbols", "unknown", "one space"])
def test_text_that_streams_is_the_text_of_all_ids(name: str) -> None:
    theirs, ours = both(name)
    for text in texts(300, 3):
        ids, stream = ours.encode(text), StreamDecoder(ours)
        assert "".join([*map(stream.push, ids), stream.flush()]) == theirs.decode(ids)


def test_a_long_text_is_cut_without_a_difference() -> None:
    theirs, ours = both("llama")
    for glue in (" ", "  ", "\n ", ""):
        text = glue.join([*WORDS, SPACE]) * 24 + "  "
        assert len(text) > 200_000
        assert ours.encode(text) == theirs.encode(text)


def test_beginning_and_end_are_known_and_names_in_a_text_are_text() -> None:
    theirs, ours = both("llama")
    assert (ours.bos_id, ours.eos_id, ours.unknown_id) == (1, 2, 0) == (theirs.bos_id(), theirs.eos_id(), 0)
    assert ours.decode(ours.encode("<s> a </s>")) == "<s> a </s>"
    assert not {1, 2} & set(ours.encode("<s> a </s>"))
    assert ours.decode([1, *ours.encode("the"), 2]) == "the"
    assert ours.tokens(ours.encode("the\n")) == [f"{SPACE}the", "<0x0A>"]
    assert ours.unknown("the 犬\0") == []
    assert both("unknown")[1].unknown("the \U00010ffd") == ["\U00010ffd"]


def test_names_other_than_the_usual_are_found() -> None:
    ours = tokenizer(trained(**LLAMA, bos_piece="[begin]", eos_piece="[end]"))
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    ours = tokenizer(trained(**LLAMA, bos_id=-1))
    assert ours.bos_id is None and ours.eos_id is not None


def made_up(draw: random.Random, scores: list[float]) -> bytes:
    """Random pieces of few characters, as many as there are scores, which have no order that training would give."""
    alphabet = ["a", "b", SPACE]
    found = dict.fromkeys("".join(draw.choices(alphabet, k=draw.randint(2, 7))) for _ in range(4 * len(scores)))
    pieces = zip([*alphabet, *list(found)[: len(scores) - 3]], scores, strict=False)
    return written((text, score, NORMAL) for text, score in pieces)


def test_scores_in_any_order_are_obeyed() -> None:
    draw = random.Random(4)
    for _ in range(60):
        scores = [-float(rank) for rank in range(draw.randint(5, 40))]
        draw.shuffle(scores)
        theirs, ours = pair(made_up(draw, scores))
        for _ in range(60):
            check(theirs, ours, "".join(draw.choices("aab  c", k=draw.randint(0, 24))))


def test_equal_scores_are_obeyed_or_refused() -> None:
    draw, refused, taken = random.Random(5), 0, 0
    for _ in range(100):
        content = made_up(draw, [-float(draw.randint(0, 9)) for _ in range(draw.randint(5, 30))])
        try:
            theirs, ours = pair(content)
        except ValueError as error:
            assert "get in each other's way" in str(error)
            refused += 1
            continue
        taken += 1
        for _ in range(60):
            check(theirs, ours, "".join(draw.choices("aab  c", k=draw.randint(0, 24))))
    assert refused > 10 and taken > 10


def test_runs_of_one_character_may_have_one_score_as_the_spaces_of_llama_have() -> None:
    draw = random.Random(7)
    for _ in range(60):
        runs = [(one * n, -1e9, NORMAL) for one in (SPACE, "a") for n in draw.sample(range(2, 20), 9)]
        rest = ["b", SPACE, "a", f"{SPACE}b", "ab", f"{SPACE}a", "ba", "bb", f"b{SPACE}"]
        draw.shuffle(rest)
        # Without the shortest run nothing begins; some are never arrived at.
        pieces = dict.fromkeys([(SPACE * 2, -1e9, NORMAL), ("aa", -1e9, NORMAL), *runs])
        theirs, ours = pair(written([*((text, -float(at), NORMAL) for at, text in enumerate(rest)), *pieces]))
        for _ in range(60):
            parts = draw.choices([" ", "a", "b", "c"], k=draw.randint(0, 8))
            check(theirs, ours, "".join(part * draw.choice([1, 2, draw.randint(1, 50)]) for part in parts))


A = ("a", -1.0, NORMAL)


@pytest.mark.parametrize("space_first", [0, 1])
@pytest.mark.parametrize("one_space", [0, 1])
@pytest.mark.parametrize("has_bytes", [0, 1])
def test_a_space_that_is_no_piece_is_what_sentencepiece_takes_it_for(
    space_first: int, one_space: int, has_bytes: int
) -> None:
    theirs, ours = pair(written([A], {35: has_bytes}, {3: space_first, 4: one_space}))
    for text in texts(300, 9):
        check(theirs, ours, text)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (written([A], {3: 1}), "model_type is unigram; only bpe"),
        (written([A], {3: 9}), "model_type is 9"),
        (written([A], normalizer={1: "nmt_nfkc", 2: b"\1\2"}), r"rules of its own \(nmt_nfkc\)"),
        (written([A]) + field(5, field(2, b"\1\2")), "rules of its own"),
        (written([A], {24: 1}), "treat_whitespace_as_suffix"),
        (written([A], normalizer={5: 0}), "escape_whitespaces"),
        (written([A, A]), "piece 260, 'a', is there twice"),
        (written([("", 0.0, NORMAL)]), "piece 259, '', is empty"),
        (written([("a", float("nan"), NORMAL)]), "no finite number"),
        (written([("a", 0.0, 7)]), "7 is not a valid Kind"),
        (written([("a", 0.0, -1)]), "is not a valid Kind"),
        (written([("b", 0.0, UNKNOWN)]), "2 pieces stand for what is unknown"),
        (written([("<0x0a>", 0.0, BYTE)]), "byte_fallback needs one piece for each byte"),
        (written([("<0x0A>", 0.0, BYTE)], {35: 0}), "byte_fallback"),
        (written([("ab", 0.0, UNUSED)]), "'ab' is marked as unused"),
        (written([A, ("ab", -2.0, NORMAL)]), "'b' is part of a piece, and no piece itself"),
        (written([A, ("a b", 0.0, SYMBOL)], normalizer={4: 1}), "symbol defined by the user has a space"),
        (written([A, (f"{SPACE}{SPACE}", 0.0, SYMBOL)], normalizer={4: 1}), f"'{SPACE}{SPACE}' begins with two spaces"),
        (written([A, (f"a{SPACE}", 0.0, SYMBOL)]), f"'a{SPACE}' has a space, and '{SPACE}' is no piece itself"),
        (written([("b", 0.0, CONTROL)]), "'b' stands for no text, and couldn't be told from the character"),
        (written([A], {44: f"?{SPACE}"}), f"unk_surface is '.{SPACE}', whose {SPACE} would be a space"),
        (written([(f"{n}!", 0.0, SYMBOL) for n in range(5000)]), "more than 4096 pieces"),
        (written([A])[:-3], "goes beyond the end"),
        (written([A]) + b"\xff" * 12, "number without an end"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "goes beyond the end"),
        (b"version https://git-lfs.github.com/spec/v1", "begins no field"),
        (field(1, 5), "field 1 is a number"),
        (field(1, field(1, b"\xff\xfe")), "codec can't decode"),
        (field(1, varint(2 << 3 | 2) + b"\1x"), "no finite number"),
        (b"", "model_type is unigram"),
    ],
)
def test_what_would_not_be_the_same_and_what_is_damaged_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sentencepiece_tokenizer(content)


def test_any_damage_is_refused_or_gives_a_tokenizer_and_nothing_else() -> None:
    whole, draw = trained(**LLAMA), random.Random(6)
    for _ in range(100):
        harmed = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            harmed[draw.randrange(len(harmed))] = draw.randrange(256)
        try:
            tokenizer(bytes(harmed[: draw.choice([len(harmed), draw.randrange(len(harmed))])])).encode("a the\n")
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"".join(piece(f"{n:x}", 0.0, CONTROL) for n in range(6000)), id="many pieces"),
        pytest.param(written([("a" * 20_000, 0.0, NORMAL)]), id="a long piece"),
        pytest.param(written([("ab" * 500 + str(n), 0.0, NORMAL) for n in range(500)]), id="many long pieces"),
        pytest.param(written([("<a>", 0.0, SYMBOL), ("c" * (1 << 24), 0.0, CONTROL)]), id="a long name"),
        pytest.param(field(1, field(1, "x") + field(9, b"z" * (1 << 24))) * 2, id="unknown fields"),
    ],
)
def test_files_made_to_take_time_or_memory_are_refused_soon(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_file, "_PIECES", 5000)
    began = time.monotonic()
    with pytest.raises(ValueError, match="one too many|longer, or more|there twice"):
        sentencepiece_tokenizer(content)
    assert time.monotonic() - began < 30
