import pytest
import torch

from llamita.errors import UserError
from llamita.insight.probes import lemma_folds, linear_probe, shuffle_by_lemma


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


@pytest.mark.parametrize(("words", "share", "within"), [(300, 0.2, 0.05), (40, 0.5, 0.1), (300, 0.05, 0.1)])
def test_random_vectors_are_at_chance_whatever_the_size_of_classes(words: int, share: float, within: float) -> None:
    scores = []
    for seed in range(8):
        vectors = torch.randn(words, 24, generator=torch.Generator().manual_seed(seed))
        _, labels, lemmas = planted(words, 2, 0.0, share)
        scores.append(linear_probe(vectors, labels, lemmas))
    assert scores[0].majority == pytest.approx(max(share, 1 - share))
    for name in ("accuracy", "control", "one_dimension"):
        assert sum(getattr(score, name) for score in scores) / 8 == pytest.approx(0.5, abs=within), name


def doubled() -> tuple[torch.Tensor, list[bool], list[str]]:
    """Four forms a lemma, alike; the label follows from the lemma and means nothing."""
    own = torch.randn(60, 32, generator=torch.Generator().manual_seed(2)).repeat_interleave(4, 0)
    lemmas = [f"lemma{number // 4}" for number in range(240)]
    return own, [int(lemma[5:]) % 2 == 0 for lemma in lemmas], lemmas


def test_forms_of_a_lemma_are_never_learnt_from_and_tested_at_once() -> None:
    vectors, labels, lemmas = doubled()
    assert linear_probe(vectors, labels, lemmas).accuracy < 0.65
    assert linear_probe(vectors, labels, [str(number) for number in range(240)]).accuracy > 0.75


def test_labels_are_shuffled_between_lemmas_and_so_show_what_lemmas_give_away() -> None:
    _, labels, lemmas = doubled()
    truth = torch.tensor(labels)
    shuffled = shuffle_by_lemma(truth, lemmas, torch.Generator().manual_seed(0))
    assert shuffled.sum() == truth.sum() and not torch.equal(shuffled, truth)
    assert all(len(set(shuffled[4 * lemma : 4 * lemma + 4].tolist())) == 1 for lemma in range(60))
    plural = torch.tensor([False, True] * 30)
    mixed = shuffle_by_lemma(plural, [str(number // 2) for number in range(60)], torch.Generator().manual_seed(0))
    assert mixed.sum() == 30 and not torch.equal(mixed, plural)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_folds_leave_no_word_out_share_no_lemma_and_know_both_classes(share: float) -> None:
    labels = torch.arange(90) < 90 * share
    lemmas = [f"{int(label)} {number // 2}" for number, label in enumerate(labels.tolist())]
    folds = lemma_folds(labels, lemmas)
    assert torch.stack(folds).sum(0).tolist() == [1] * 90 and len(folds) == min(10, round(90 * share) // 2 + 1)
    for fold in folds:
        inside, outside = ({lemmas[number] for number in side.nonzero()[:, 0].tolist()} for side in (fold, ~fold))
        assert inside and inside.isdisjoint(outside)
        assert labels[~fold].any() and not labels[~fold].all()


def test_the_same_words_give_the_same_score() -> None:
    assert linear_probe(*planted(50, 8, 1.0)) == linear_probe(*planted(50, 8, 1.0))


def test_a_class_needs_lemmas_to_learn_from() -> None:
    with pytest.raises(UserError, match="a class of 2 lemmas: a probe needs at least 5"):
        linear_probe(torch.randn(9, 4), [True] * 6 + [False] * 3, [*"abcdef", "g", "g", "h"])


def test_vectors_that_are_all_the_same_tell_nothing() -> None:
    _, labels, lemmas = planted(20, 2, 0.0)
    for vectors in (torch.zeros(20, 8), torch.ones(20, 8)):
        assert linear_probe(vectors, labels, lemmas).accuracy == 0.5
