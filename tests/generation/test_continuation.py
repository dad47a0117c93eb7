"""Text in pieces: whole characters, and nothing of a stop string."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders
from tokenizers.models import BPE

from llamita.generation.continuation import ContinuationText
from llamita.text.tokenizer import Tokenizer

BYTES = Tokenizer.train([], vocab_size=0, kind="byte")
WORDS = Tokenizer.train(["the king loves his dog. the dog loves the king."], vocab_size=64, kind="word")
PAIRS = Tokenizer.train(["abab cdcd abcd abab cdcd " * 3, "é🦙é🦙 " * 3], vocab_size=320, kind="bpe")


def pieces(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str] = (), prompt: str = "") -> Iterator[str]:
    text = ContinuationText(tokenizer, tokenizer.encode(prompt), stop)
    for token_id in ids:
        yield text.push(token_id)
    yield text.flush()


def cut_by_characters(text: str, stop: Sequence[str]) -> str:
    """The text before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(
    text=st.text("abcd é🦙", max_size=40),
    stop=st.lists(st.text("abcd é🦙", min_size=1, max_size=5), max_size=3),
)
@pytest.mark.parametrize("tokenizer", [BYTES, PAIRS], ids=["byte", "bpe"])
def test_text_ends_before_the_stop_string_wherever_tokens_end(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    parts = list(pieces(tokenizer, tokenizer.encode(text), stop))
    assert "".join(parts) == cut_by_characters(text, stop)
    # A replacement character, which the text doesn't have, would be half of one that it has.
    assert not any("\ufffd" in part for part in parts)


@given(text=st.text(max_size=40), cut=st.integers(0, 3))
def test_an_unfinished_character_is_not_shown(text: str, cut: int) -> None:
    ids = BYTES.encode(text)
    whole = "".join(pieces(BYTES, ids[: len(ids) - cut]))
    assume("\ufffd" not in text)
    assert text.startswith(whole)
    assert len(text) - len(whole) <= cut


def test_text_is_shown_as_soon_as_it_is_decided() -> None:
    shown = list(pieces(BYTES, BYTES.encode("a STOX bé"), ["STOP", "\n\n"]))
    assert shown == ["a", " ", "", "", "", "STOX", " ", "b", "", "é", ""]


def test_text_that_only_began_a_stop_string_is_shown_in_the_end() -> None:
    assert "".join(pieces(BYTES, BYTES.encode("wait ST"), ["STOP"])) == "wait ST"


def test_a_stop_string_inside_one_token_keeps_what_comes_before_it() -> None:
    (token_id,) = PAIRS.encode(" abcd")
    assert "".join(pieces(PAIRS, [token_id], ["c"])) == " ab"


def test_of_two_stop_strings_in_one_token_the_one_that_is_complete_first_counts() -> None:
    (token_id,) = PAIRS.encode(" abcd")
    assert "".join(pieces(PAIRS, [token_id], ["abcd", "bc"])) == " a"


@pytest.mark.parametrize("continuation", ["loves his dog.", ". the dog"])
def test_a_word_is_set_off_from_the_prompt_as_within_a_text(continuation: str) -> None:
    prompt = "the king"
    whole = prompt + (continuation if continuation.startswith(".") else " " + continuation)
    ids = WORDS.encode(whole)[len(WORDS.encode(prompt)) :]
    assert prompt + "".join(pieces(WORDS, ids, prompt=prompt)) == whole


def test_bytes_that_a_decoder_still_holds_of_the_prompt_are_not_shown_again() -> None:
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = Backend(BPE(vocab={name: byte for byte, name in enumerate(names)}, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = Tokenizer(backend)
    assert "".join(pieces(tokenizer, tokenizer.encode("y é"), prompt="né")) == "y é"
