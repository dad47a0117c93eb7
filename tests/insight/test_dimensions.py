"""What a dimension means: the figures against brute force, and what planted tables must give."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from llamita.errors import UsageError
from llamita.insight import dimensions
from llamita.insight.dimensions import coherence, study_dimension
from llamita.text.tokenizer import Tokenizer

WORDS = [f"w{number:03}" for number in range(240)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)], vocab_size=300, kind="word")


def random_table(tokenizer: Tokenizer, n_embd: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(tokenizer.get_vocab_size(), n_embd, generator=torch.Generator().manual_seed(seed))


def slow_coherence(rows: Tensor, direction: Tensor, ends: int) -> float:
    order = sorted(range(len(rows)), key=lambda number: float(rows[number] @ direction))
    means = []
    for end in (order[:ends], order[-ends:]):
        beside = [rows[number] - (rows[number] @ direction) * direction for number in end]
        cosines = [torch.cosine_similarity(a, b, dim=0).item() for a, b in combinations(beside, 2)]
        means.append(sum(cosines) / len(cosines))
    return sum(means) / 2


@pytest.mark.parametrize("ends", [2, 10])
def test_coherence_is_the_mean_cosine_of_all_pairs_at_both_ends(ends: int) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 7, generator=generator) + 0.5
    directions = torch.nn.functional.normalize(torch.randn(9, 7, generator=generator), dim=1)
    expected = [slow_coherence(rows, direction, ends) for direction in directions]
    assert coherence(rows, directions, ends).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_studied_figures_are_those_of_brute_force(tokenizer: Tokenizer) -> None:
    table = random_table(tokenizer)
    study = study_dimension(table, tokenizer, 4)
    ids = [number for word in WORDS if (number := tokenizer.token_to_id(word)) is not None]
    rows = table[ids]
    assert study.coherence == pytest.approx(slow_coherence(rows, torch.eye(12)[4], 10), abs=1e-5)
    order = sorted(ids, key=lambda number: table[number, 4].item())
    assert [one.id for one in study.lowest] == order[:10]
    assert [one.id for one in study.highest] == order[::-1][:10]
    for one in study.highest + study.lowest:
        assert one.value == table[one.id, 4].item()
        assert one.token == tokenizer.id_to_token(one.id)
    assert (study.rows, study.ends, study.measured) == (240, 10, 12)


def test_a_dimension_that_gathers_a_cluster_stands_out_from_random_directions(tokenizer: Tokenizer) -> None:
    table, generator = random_table(tokenizer, 64), torch.Generator().manual_seed(3)
    for sign, words in ((1, WORDS[:10]), (-1, WORDS[10:20])):
        shared = torch.randn(64, generator=generator)
        for word in words:
            number = tokenizer.token_to_id(word)
            assert number is not None
            table[number] += 2 * shared
            table[number, 7] = sign * 9.0
    study = study_dimension(table, tokenizer, 7)
    assert {one.token for one in study.highest} == set(WORDS[:10])
    assert study.percentile == 100
    assert study.verdict.startswith("By this measure dimension 7 means more than a random direction")
    assert "the dimensions on the whole mean no more" in study.verdict


@pytest.mark.parametrize("n_embd", [8, 64])
def test_random_tables_mean_nothing_along_any_direction(n_embd: int, tokenizer: Tokenizer) -> None:
    studies = [study_dimension(random_table(tokenizer, n_embd, seed), tokenizer, 0) for seed in range(20)]
    assert sum(study.mean_percentile for study in studies) / 20 == pytest.approx(50, abs=6)
    assert sum(study.random_mean for study in studies) / 20 == pytest.approx(0, abs=0.01)


def test_without_a_dimension_the_one_is_taken_on_which_the_rows_stand_out(tokenizer: Tokenizer) -> None:
    table = random_table(tokenizer)
    # Far from zero on one dimension like all rows, far from all rows on another.
    table[:, 2] += 50
    table[20:23, 9] -= 6
    assert study_dimension(table, tokenizer, chosen=[20, 21, 22]).dimension == 9
    assert study_dimension(table, tokenizer).dimension == 0


@pytest.mark.parametrize("dimension", [-1, 12])
def test_a_dimension_that_is_not_there_is_refused(dimension: int, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=f"--dimension {dimension}: n_embd is 12, so choose 0 to 11"):
        study_dimension(random_table(tokenizer), tokenizer, dimension)


def test_rows_that_no_text_is_made_of_are_left_out(tokenizer: Tokenizer) -> None:
    table = torch.cat((random_table(tokenizer), torch.full((5, 12), 99.0)))
    mute = [*tokenizer.special_ids, tokenizer.unknown_id]
    table[mute] = 99.0
    study = study_dimension(table, tokenizer, 3)
    assert {one.token for one in study.highest + study.lowest} <= set(WORDS)
    assert study.rows == len(WORDS)


def test_of_a_large_table_the_lowest_ids_are_studied(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimensions, "_ROWS", 50)
    study = study_dimension(random_table(tokenizer), tokenizer, 1)
    assert study.rows == 50
    assert max(one.id for one in study.highest + study.lowest) <= 50


def test_studies_repeat_and_leave_the_global_random_state_alone(tokenizer: Tokenizer) -> None:
    state = torch.get_rng_state()
    table = random_table(tokenizer)
    assert study_dimension(table, tokenizer, 1) == study_dimension(table, tokenizer, 1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("words", ["a", "a b c"])
def test_too_few_tokens_give_no_figures(words: str) -> None:
    few = Tokenizer.train([words], vocab_size=64, kind="word")
    study = study_dimension(random_table(few), few, 1, [1])
    assert math.isnan(study.coherence) and math.isnan(study.percentile)
    assert "too few tokens" in study.verdict


def test_rows_that_are_all_alike_or_zero_break_nothing(tokenizer: Tokenizer) -> None:
    for value in (0.0, 1.0):
        study = study_dimension(torch.full((tokenizer.get_vocab_size(), 6), value), tokenizer, chosen=[1])
        assert 0 <= study.percentile <= 100
    assert study_dimension(torch.ones(tokenizer.get_vocab_size(), 1), tokenizer).coherence == 0
