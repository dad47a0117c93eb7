"""What is held out: a seeded share of whole documents, or the tail of each; nothing is lost or moved."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamita.errors import UserError
from llamita.text.holdout import Part, SplitKind, choose_split


def split_texts(texts: Iterable[str], fraction: float, seed: int) -> tuple[SplitKind, Iterator[tuple[Part, str]]]:
    split, rest = choose_split(texts, fraction, seed)
    return split.kind, (piece for number, text in enumerate(rest) for piece in split.pieces(number, text))


def test_documents_that_come_later_do_not_move_earlier_ones() -> None:
    texts = [f"document {number}" for number in range(600)]
    _, few = split_texts(texts[:500], 0.1, seed=3)
    _, more = split_texts(texts, 0.1, seed=3)
    assert list(few) == list(more)[:500]


def test_a_text_without_lines_is_cut_before_white_space_or_else_anywhere() -> None:
    kind, parts = split_texts(["abcd " * 40], 0.2, seed=0)
    assert kind == "tail"
    assert list(parts) == [("train", ("abcd " * 32)[:-1]), ("validation", " " + "abcd " * 8)]
    for beginning in ("", "too early\n"):
        _, parts = split_texts([beginning + "字" * 100], 0.2, seed=0)
        sizes = [len(text) for _, text in parts]
        assert sizes == [round(0.8 * sum(sizes)), sum(sizes) - round(0.8 * sum(sizes))]


@pytest.mark.parametrize("texts", [["a b " * 5000, "tiny"], ["tiny", "a b " * 5000], ["a b " * 500] * 3])
@pytest.mark.parametrize("seed", range(20))
def test_few_or_uneven_documents_still_give_a_sensible_share(texts: list[str], seed: int) -> None:
    _, parts = split_texts(texts, 0.1, seed)
    sizes = {"train": 0, "validation": 0}
    for part, text in parts:
        sizes[part] += len(text)
    assert 0.02 < sizes["validation"] / sum(sizes.values()) < 0.45


@given(st.lists(st.text(max_size=30), min_size=1), st.floats(0.01, 0.9), st.integers(0, 10))
def test_a_split_loses_no_text_and_starves_neither_side(texts: list[str], fraction: float, seed: int) -> None:
    kind, parts = split_texts(texts, fraction, seed)
    split = list(parts)
    assert "".join(text for _, text in split) == "".join(texts)
    if kind == "documents":
        assert [text for _, text in split] == texts
    if any(len(text) > 1 for text in texts):
        assert {part for part, text in split if text} == {"train", "validation"}


def test_splitting_looks_ahead_only_so_far() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        text = "a" * 2**20
        while True:
            taken += 1
            yield text

    split_texts(endless(), 0.1, seed=0)
    assert 1 < taken <= 64


def test_a_text_of_one_character_is_not_cut() -> None:
    assert list(split_texts(["x"], 0.1, seed=0)[1]) == [("train", "x")]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 3.0, float("nan")])
def test_a_fraction_out_of_range_is_named(fraction: float) -> None:
    with pytest.raises(UserError, match="validation fraction"):
        choose_split(["text"], fraction, 0)
