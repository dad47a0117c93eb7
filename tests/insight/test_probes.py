import pytest
import torch

from llamita.errors import UserError
from llamita.insight.probes import lemma_folds, linear_probe


def planted(words: int, dim: int, strength: float, share: float = 0.5) -> tuple[torch.Tensor, list[bool], list[str]]:
    generator = torch.Generator().manual_seed(0)
    labels = [number < share * words for number in range(words)]
    vectors = torch.randn(words, dim, generator=generator)
    vectors[:, 0] += strength * torch.tensor([1.0 if label else -1.0 for label in labels])
    return vectors, labels, [f"w{number}" for number in range(words)]


@pytest.mark.parametrize(("words", "dim"), [(200, 16), (60, 400)])
def test_a_direction_is_found_and_shuffled_labels_are_not(words: int, dim: int) -> None:
    score = linear_probe(*planted(words, dim, strength=8.0))
    assert score.accuracy > 0.97 and abs(score.control - 0.5) < 0.1
    assert score.words == words and score.majority == 0.5


def test_one_coordinate_tells_what_lies_along_it_and_not_what_lies_across() -> None:
    vectors, labels, lemmas = planted(400, 64, strength=3.0)
    assert linear_probe(vectors, labels, lemmas).one_dimension > 0.97
    turned, _ = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))
    score = linear_probe(vectors @ turned, labels, lemmas)
    assert score.accuracy > 0.95 > 0.9 > score.one_dimension > 0.6


def test_random_vectors_are_at_chance_whatever_the_size_of_classes() -> None:
    score = linear_probe(*planted(300, 24, strength=0.0, share=0.2))
    assert score.majority == pytest.approx(0.8)
    assert (
        abs(score.accuracy - 0.5) < 0.12 and abs(score.one_dimension - 0.5) < 0.12 and abs(score.control - 0.5) < 0.05
    )


def test_forms_of_a_lemma_are_never_learnt_from_and_tested_at_once() -> None:
    # Labels follow from the lemma alone and vectors are the lemma's own: only a leak could tell them.
    generator = torch.Generator().manual_seed(2)
    lemmas = [f"lemma{number // 4}" for number in range(240)]
    own = torch.randn(60, 32, generator=generator).repeat_interleave(4, 0)
    labels = [int(lemma[5:]) % 2 == 0 for lemma in lemmas]
    honest = linear_probe(own, labels, lemmas)
    leaking = linear_probe(own, labels, [str(number) for number in range(240)])
    assert leaking.accuracy > 0.8 > 0.65 > honest.accuracy


def test_folds_share_no_word_and_leave_none_out() -> None:
    lemmas = ["a", "b", "a", "c", "d", "b"]
    folds = lemma_folds(lemmas, seed=0)
    assert torch.stack(folds).sum(0).tolist() == [1] * 6
    for fold in folds:
        inside = {lemma for lemma, tested in zip(lemmas, fold.tolist(), strict=True) if tested}
        outside = {lemma for lemma, tested in zip(lemmas, fold.tolist(), strict=True) if not tested}
        assert inside and inside.isdisjoint(outside)


def test_the_same_words_give_the_same_score() -> None:
    assert linear_probe(*planted(50, 8, 1.0)) == linear_probe(*planted(50, 8, 1.0))


def test_a_class_needs_two_lemmas() -> None:
    with pytest.raises(UserError, match="1 lemmas in a class: a probe needs at least 2"):
        linear_probe(torch.randn(3, 4), [True, False, False], ["a", "b", "c"])
