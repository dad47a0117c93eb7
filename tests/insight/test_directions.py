import pytest
import torch

from llamita.errors import UserError
from llamita.insight.directions import direction_of_lists, direction_of_pairs


def words(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    vectors = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    vectors[:, 3] += shift
    return vectors


def test_a_shared_difference_is_found_by_pairs_and_holds_for_unseen_ones() -> None:
    first = words(20, 0)
    second = first + 0.3 * words(20, 1, shift=10.0)
    found = direction_of_pairs(first, second)
    assert found.accuracy == 1.0 and abs(found.control - 0.5) < 0.1 and found.agreement > 0.8
    assert found.vector.argmax() == 3 and found.vector.norm() == pytest.approx(1.0) and found.words == 40


def test_pairs_without_a_shared_difference_have_no_direction() -> None:
    found = direction_of_pairs(words(40, 0), words(40, 1))
    assert abs(found.accuracy - 0.5) < 0.2 and found.agreement < 0.5


def test_held_out_pairs_are_judged_by_the_others_alone() -> None:
    differences = words(12, 5)
    right = 0
    for number in range(12):
        others = torch.cat([differences[:number], differences[number + 1 :]]).mean(0)
        right += int(others @ differences[number] > 0)
    assert direction_of_pairs(torch.zeros(12, 32), differences).accuracy == pytest.approx(right / 12)


def test_lists_apart_are_told_apart_and_lists_alike_are_not() -> None:
    apart = direction_of_lists(words(30, 0), words(50, 1, shift=6.0))
    assert apart.accuracy > 0.95 and abs(apart.control - 0.5) < 0.1 and apart.vector.argmax() == 3
    alike = direction_of_lists(words(30, 0), words(50, 1))
    assert abs(alike.accuracy - 0.5) < 0.25


def test_too_few_words_are_an_error() -> None:
    with pytest.raises(UserError, match="2 pairs of words"):
        direction_of_pairs(words(2, 0), words(2, 1))
    with pytest.raises(UserError, match="lists of 2 and 9 words"):
        direction_of_lists(words(2, 0), words(9, 1))
