"""The questions, compared with gensim's KeyedVectors on the same rows and with plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from llamita.errors import UserError
from llamita.insight.vectors import Neighbor, Vectors
from llamita.text.tokenizer import Tokenizer

WORDS = ("king", "dog", "street", "eats", "princess")


@pytest.fixture(scope="module")
def keyed(vectors: Vectors) -> Any:
    made = KeyedVectors(vector_size=24)
    made.add_vectors(vectors.tokenizer.tokens(vectors.ids), vectors.rows.numpy())
    return made


def agree(ours: list[Neighbor], theirs: list[tuple[str, float]]) -> None:
    assert [found.token for found in ours] == [word for word, _ in theirs]
    np.testing.assert_allclose([found.similarity for found in ours], [value for _, value in theirs], rtol=1e-4)


@pytest.mark.parametrize("word", WORDS)
def test_neighbors_are_gensims(vectors: Vectors, keyed: Any, word: str) -> None:
    agree(vectors.most_similar(word, topn=12), keyed.most_similar(word, topn=12))


@pytest.mark.parametrize(("plus", "minus"), [(("woman", "king"), ("man",)), (("dog", "red", "box"), ("cat", "lamp"))])
def test_sums_of_words_are_gensims_added_and_multiplied(
    vectors: Vectors, keyed: Any, plus: tuple[str, ...], minus: tuple[str, ...]
) -> None:
    agree(vectors.most_similar(plus, minus), keyed.most_similar(positive=list(plus), negative=list(minus)))
    theirs = keyed.most_similar_cosmul(positive=list(plus), negative=list(minus))
    agree(vectors.most_similar_cosmul(plus, minus), theirs)


def test_similarity_and_the_odd_one_out_are_gensims(vectors: Vectors, keyed: Any) -> None:
    assert vectors.similarity("king", "queen") == pytest.approx(float(keyed.similarity("king", "queen")), rel=1e-5)
    words = ["king", "queen", "prince", "lamp"]
    assert vectors.doesnt_match(words) == keyed.doesnt_match(words)
    theirs = {word: rank for rank, word in keyed.rank_by_centrality(words)}
    assert [word for word, _ in vectors.match(words)] == sorted(words, key=lambda word: theirs[word])


def test_an_analogy_is_answered_and_never_by_its_own_words(vectors: Vectors) -> None:
    for method in ("3CosAdd", "3CosMul"):
        found = vectors.analogy("man", "woman", "king", topn=500, method=method)
        assert found[0].token == "queen"
        assert {"man", "woman", "king"}.isdisjoint(answer.token for answer in found)
        assert len(found) == len(vectors.ids) - 3


def test_special_tokens_are_never_found_but_can_be_asked_for(vectors: Vectors) -> None:
    tokenizer = vectors.tokenizer
    found = {neighbor.id for neighbor in vectors.most_similar("king", topn=500)}
    assert found.isdisjoint(tokenizer.special_ids) and len(found) == len(vectors.ids) - 1
    assert tokenizer.bos_id is not None
    name = tokenizer.id_to_token(tokenizer.bos_id)
    assert name is not None and len(vectors.most_similar(name, topn=5)) == 5


def test_a_word_of_several_tokens_is_their_mean(bpe_tokenizer: Tokenizer) -> None:
    matrix = torch.randn(bpe_tokenizer.get_vocab_size(), 8, generator=torch.Generator().manual_seed(1))
    vectors = Vectors(matrix, bpe_tokenizer)
    ids = bpe_tokenizer.encode(" zebra")
    assert len(ids) > 1
    torch.testing.assert_close(vectors.vector("zebra"), matrix[ids].mean(0))
    # Its own parts are not the word, so they may be found.
    assert set(ids) & {neighbor.id for neighbor in vectors.most_similar("zebra", topn=30)}


def test_centred_vectors_lack_the_mean_of_all(vectors: Vectors, word_tokenizer: Tokenizer) -> None:
    matrix = vectors._matrix + 5.0
    centred, mean = Vectors(matrix, word_tokenizer, center=True), matrix[vectors.ids].mean(0)
    torch.testing.assert_close(centred.rows, matrix[vectors.ids] - mean)
    torch.testing.assert_close(centred.vector("king"), vectors.vector("king") + 5.0 - mean)


def test_words_in_a_context_have_their_states_there(vectors: Vectors, word_tokenizer: Tokenizer) -> None:
    centred = Vectors(vectors._matrix, word_tokenizer, center=True, whole_only=True)
    state = vectors.vector("dog") + 0.1
    inside = centred.in_context({"king": state, "king queen": vectors.vector("lamp")})
    torch.testing.assert_close(inside.vector("king"), state - vectors.rows.mean(0))
    assert inside.most_similar("king", topn=1)[0].token == "dog"
    assert inside.most_similar("king queen", topn=1)[0].token == "lamp"
    torch.testing.assert_close(inside.vector("lamp"), centred.vector("lamp"))
    assert centred.most_similar("king", topn=1)[0].token != "dog"


def test_what_was_never_met_has_no_vector(vectors: Vectors, word_tokenizer: Tokenizer) -> None:
    king, dog = (word_tokenizer.token_to_id(word) for word in ("king", "dog"))
    assert king is not None and dog is not None
    matrix = torch.zeros(word_tokenizer.get_vocab_size(), 4)
    matrix[[king, dog]] = 1.0
    few = Vectors(matrix, word_tokenizer, answers=[king, dog], whole_only=True)
    assert [found.token for found in few.most_similar("king", topn=10)] == ["dog"]
    with pytest.raises(UserError, match="'lamp' is 'lamp', and 'lamp' has no vector here"):
        few.vector("lamp")
    with pytest.raises(UserError, match="no token has a vector"):
        Vectors(matrix, word_tokenizer, answers=[])


def test_bad_questions_are_told_what_is_wrong(vectors: Vectors, word_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="topn is 0"):
        vectors.most_similar("king", topn=0)
    with pytest.raises(UserError, match="2 words: give at least 3"):
        vectors.doesnt_match(["king", "queen"])
    with pytest.raises(UserError, match="no word to compare with"):
        vectors.most_similar([])
    with pytest.raises(UserError, match="3 vectors, but the tokenizer has 64 tokens"):
        Vectors(torch.zeros(3, 2), word_tokenizer)
    parts = Vectors(vectors.rows.new_ones(64, 4), word_tokenizer, whole_only=True)
    with pytest.raises(UserError, match="in a context only"):
        parts.vector("king queen")


def test_asking_in_half_precision_is_asking_the_same_numbers(vectors: Vectors, word_tokenizer: Tokenizer) -> None:
    half = vectors._matrix.bfloat16()
    assert Vectors(half, word_tokenizer).vector("king").dtype == torch.float32
