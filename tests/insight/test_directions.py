import pytest
import torch

from llamita.errors import UserError
from llamita.insight.directions import _linked, direction_of_lists, direction_of_pairs


def vectors(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    made = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    made[:, 3] += shift
    return made


def names(count: int) -> list[tuple[str, str]]:
    return [(f"a{number}", f"b{number}") for number in range(count)]


def test_a_shared_difference_is_found_by_pairs_and_holds_for_unseen_ones() -> None:
    first = vectors(20, 0)
    found = direction_of_pairs(first, first + 0.3 * vectors(20, 1, shift=10.0), names(20))
    assert found.accuracy == 1.0 and found.p_value < 0.01 and found.agreement > 0.8
    assert found.vector.argmax() == 3 and found.vector.norm() == pytest.approx(1.0) and found.words == 40


def test_pairs_without_a_shared_difference_have_no_direction() -> None:
    found = [direction_of_pairs(vectors(12, seed), vectors(12, 100 + seed), names(12)) for seed in range(40)]
    assert sum(one.accuracy for one in found) / 40 == pytest.approx(0.5, abs=0.1)
    # Without a difference all p-values are as likely as any other.
    assert sum(one.p_value for one in found) / 40 == pytest.approx(0.5, abs=0.15)
    assert sum(one.p_value <= 0.05 for one in found) <= 6


def test_three_lucky_pairs_prove_nothing() -> None:
    found = direction_of_pairs(torch.zeros(3, 32), vectors(3, 0, shift=20.0), names(3))
    assert found.accuracy == 1.0 and found.p_value > 0.2


def test_held_out_pairs_are_judged_by_pairs_that_share_no_word_with_them() -> None:
    differences = vectors(12, 5)
    words = [*names(10), ("a0", "c"), ("d", "b1")]
    right = 0
    for number, pair in enumerate(words):
        others = [other for other, them in enumerate(words) if not set(pair) & set(them)]
        assert number not in others
        right += int(differences[others].sum(0) @ differences[number] > 0)
    found = direction_of_pairs(torch.zeros(12, 32), differences, words)
    assert found.accuracy == pytest.approx(right / 12) and found.words == 22


@pytest.mark.parametrize(("firsts", "each"), [(3, 4), (8, 3)])
def test_pairs_of_the_same_words_do_not_prove_each_other(firsts: int, each: int) -> None:
    words = [(f"h{first}", f"t{first} {other}") for first in range(firsts) for other in range(each)]
    found = []
    for seed in range(40):
        own = vectors(firsts, seed).repeat_interleave(each, 0)
        found.append(direction_of_pairs(own, vectors(firsts * each, 500 + seed), words))
    assert sum(one.p_value <= 0.05 for one in found) <= 6
    assert abs(sum(one.agreement for one in found) / 40) < 0.15


def test_pairs_are_linked_by_chains_of_words() -> None:
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("d", "a"), ("g", "h")]
    assert _linked(pairs).tolist() == [0, 0, 1, 0, 2]


def test_a_pair_that_is_given_again_counts_once() -> None:
    first, second = vectors(5, 0), vectors(5, 1)
    once = direction_of_pairs(first, second, names(5))
    again = direction_of_pairs(torch.cat([first, first]), torch.cat([second, second]), names(5) * 2)
    assert again.accuracy == once.accuracy and torch.equal(again.vector, once.vector) and again.words == 10


def test_lists_apart_are_told_apart_and_lists_alike_are_not() -> None:
    lemmas = [str(number) for number in range(80)]
    apart = direction_of_lists(vectors(30, 0), vectors(50, 1, shift=6.0), lemmas)
    assert apart.accuracy > 0.95 and apart.p_value < 0.01 and apart.vector.argmax() == 3 and apart.agreement > 0.8
    alike = [direction_of_lists(vectors(30, seed), vectors(50, 50 + seed), lemmas) for seed in range(8)]
    assert sum(one.accuracy for one in alike) / 8 == pytest.approx(0.5, abs=0.1)
    assert sum(one.p_value for one in alike) / 8 > 0.2 and abs(alike[0].agreement) < 0.6


def test_forms_of_a_lemma_do_not_help_each_other() -> None:
    # Every lemma has a vector of its own and two forms near it; sides mean nothing.
    own = vectors(40, 3).repeat_interleave(2, 0) + 0.05 * vectors(80, 4)
    lemmas = [str(number // 2) for number in range(80)]
    honest = direction_of_lists(own[:40], own[40:], lemmas)
    leaking = direction_of_lists(own[:40], own[40:], [str(number) for number in range(80)])
    assert honest.accuracy < 0.65 and honest.p_value > 0.05
    assert leaking.accuracy > honest.accuracy + 0.1


def test_what_cannot_be_tested_is_an_error() -> None:
    with pytest.raises(UserError, match="2 groups of pairs without a word in common"):
        direction_of_pairs(vectors(3, 0), vectors(3, 1), [*names(2), ("a1", "b1")])
    with pytest.raises(UserError, match="1 groups of pairs"):
        direction_of_pairs(vectors(3, 0), vectors(3, 1), [("a", "b"), ("a", "c"), ("a", "d")])
    with pytest.raises(UserError, match="lists of 2 and 9 lemmas"):
        direction_of_lists(vectors(2, 0), vectors(9, 1), list("abcdefghijk"))
    same = vectors(4, 0)
    with pytest.raises(UserError, match="both sides have the same vectors"):
        direction_of_pairs(same, same, names(4))
