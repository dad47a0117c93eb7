import pytest

from llamita.errors import UserError
from llamita.insight.words import find_word, find_words, whole_words
from llamita.text.tokenizer import Tokenizer
from tests.insight.conftest import WORDS


def test_a_word_is_asked_for_as_it_stands_in_running_text(bpe_tokenizer: Tokenizer) -> None:
    assert find_word(bpe_tokenizer, "king").ids == (bpe_tokenizer.token_to_id("Ġking"),)
    for spelling in (" king", "Ġking"):
        assert find_word(bpe_tokenizer, spelling).ids == find_word(bpe_tokenizer, "king").ids
    assert find_word(bpe_tokenizer, "the").tokens == (" the",)


def test_a_token_without_a_space_is_found_where_there_is_no_other(bpe_tokenizer: Tokenizer) -> None:
    word = find_word(bpe_tokenizer, "\n")
    assert word.ids == tuple(bpe_tokenizer.encode("\n")) and not word.several


def test_a_word_of_several_tokens_says_so(bpe_tokenizer: Tokenizer) -> None:
    word = find_word(bpe_tokenizer, "zebra")
    assert word.several and word.ids == tuple(bpe_tokenizer.encode(" zebra"))
    parts = " + ".join(map(repr, bpe_tokenizer.tokens(word.ids)))
    assert str(word) == f"'zebra' is {len(word.ids)} tokens ({parts})"


def test_a_number_sign_asks_for_an_id(bpe_tokenizer: Tokenizer) -> None:
    assert find_word(bpe_tokenizer, "#300").ids == (300,)
    with pytest.raises(UserError, match="token id 9999 is outside"):
        find_word(bpe_tokenizer, "#9999")


def test_special_tokens_are_asked_for_by_their_names(bpe_tokenizer: Tokenizer, word_tokenizer: Tokenizer) -> None:
    bos = bpe_tokenizer.bos_id
    assert bos is not None
    assert find_word(bpe_tokenizer, bpe_tokenizer.id_to_token(bos) or "").ids == (bos,)
    unknown = word_tokenizer.unknown_id
    assert unknown is not None
    assert find_word(word_tokenizer, word_tokenizer.id_to_token(unknown) or "").ids == (unknown,)


def test_nothing_is_no_word(word_tokenizer: Tokenizer, bpe_tokenizer: Tokenizer) -> None:
    for tokenizer in (word_tokenizer, bpe_tokenizer):
        with pytest.raises(UserError, match="'' has no tokens: give a word"):
            find_word(tokenizer, "")


def test_an_unknown_word_is_an_error_that_names_what_is_near(word_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"'princes' isn't in the vocabulary of \d+ tokens; it has princess"):
        find_word(word_tokenizer, "princes")
    with pytest.raises(UserError, match=r"'zzz' isn't in the vocabulary of \d+ tokens$"):
        find_word(word_tokenizer, "zzz")
    found, missing = find_words(word_tokenizer, ["king", "zzz", "king", "dog"])
    assert [word.text for word in found] == ["king", "dog"] and missing == ["zzz"]


def test_whole_words_are_those_that_begin_with_a_space(bpe_tokenizer: Tokenizer, word_tokenizer: Tokenizer) -> None:
    names = bpe_tokenizer.tokens(whole_words(bpe_tokenizer))
    assert {" king", " queen", " the"} <= set(names)
    assert all(name[0] == " " and name[1:].isalpha() for name in names)
    plain = whole_words(word_tokenizer)
    assert set(plain).isdisjoint(word_tokenizer.special_ids)
    assert set(word_tokenizer.tokens(plain)) == set(WORDS)


def test_whole_words_are_of_any_script_and_broken_characters_are_none() -> None:
    tokenizer = Tokenizer.train(["über größe fährt ein öl, die café 女王 король "] * 60, vocab_size=400)
    names = set(tokenizer.tokens(whole_words(tokenizer)))
    assert {" größe", " fährt", " café", " король"} <= names
    assert not [name for name in names if "<0x" in name]
