"""What may be drawn, and how often it is."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llamita.errors import UserError
from llamita.generation.sampling import Sampling, filtered, keep_top_p, next_ids

NOTHING = torch.zeros(1, 0, dtype=torch.long)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normal(rows: int, columns: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * spread


def test_temperature_zero_takes_the_largest_logit() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.9], [7.0, -1.0, 6.9]])
    ids = next_ids(logits, NOTHING.expand(2, 0), Sampling(temperature=0.0), seeded(0, 1))
    assert ids.tolist() == [1, 0]


def test_greedy_obeys_the_repetition_penalty() -> None:
    logits, previous = torch.tensor([[1.0, 3.0, 2.9]]), torch.tensor([[1]])
    assert next_ids(logits, previous, Sampling(temperature=0.0, repetition_penalty=1.1), seeded(0)).tolist() == [2]


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-4])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    logits = normal(8, 300)
    ids = next_ids(logits, NOTHING.expand(8, 0), Sampling(temperature=temperature), seeded(*range(8)))
    assert ids.tolist() == logits.argmax(-1).tolist()


def test_draws_are_as_frequent_as_the_softmax_says() -> None:
    draws = 40_000
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -4.0]])
    sampling = Sampling(temperature=0.7)
    ids = next_ids(logits.expand(draws, -1), NOTHING.expand(draws, 0), sampling, seeded(0) * draws)
    expected = (logits[0] / 0.7).softmax(-1)
    found = ids.bincount(minlength=5) / draws
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt()).all()


def test_a_row_depends_on_its_own_generator_alone() -> None:
    logits = normal(1, 50, spread=1.0)
    together = next_ids(logits.expand(8, -1), NOTHING.expand(8, 0), Sampling(), seeded(*range(8))).tolist()
    alone = [next_ids(logits, NOTHING, Sampling(), seeded(seed)).item() for seed in range(8)]
    assert together == alone
    assert len(set(together)) > 1


def test_a_rounding_error_in_the_logits_does_not_change_draws() -> None:
    logits, seeds = normal(400, 1000), range(400)
    nudged = logits + 1e-6 * normal(400, 1000, seed=1, spread=1.0)
    draws = [next_ids(some, NOTHING.expand(400, 0), Sampling(), seeded(*seeds)) for some in (logits, nudged)]
    assert torch.equal(*draws)


def test_forbidden_ids_count_in_no_filter() -> None:
    logits = torch.tensor([[9.0, 8.0, 3.0, 2.0, 1.0]])
    scores = filtered(logits, NOTHING, Sampling(top_k=2, top_p=0.99), torch.tensor([0, 1]))
    assert scores.isfinite().tolist() == [[False, False, True, True, False]]
    assert next_ids(logits, NOTHING, Sampling(temperature=0.0), seeded(0), torch.tensor([0])).item() == 1


@given(
    size=st.integers(1, 700),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    p=st.floats(0.01, 0.999),
    seed=st.integers(0, 99),
)
def test_a_nucleus_has_its_mass_and_needs_every_member(size: int, spread: float, p: float, seed: int) -> None:
    scores = normal(2, size, seed, spread)
    kept = keep_top_p(scores, p).isfinite()
    probability = scores.double().softmax(-1)
    for row, inside in zip(probability, kept, strict=True):
        assert row[inside].sum() >= p - 1e-5
        smallest = row[inside].min()
        assert row[row > smallest].sum() < p + 1e-5
        assert inside.tolist() == (row >= smallest).tolist()


@pytest.mark.parametrize(
    "off",
    [{"top_k": 10**9}, {"top_p": 1.0}, {"min_p": 0.0}, {"repetition_penalty": 1.0}, {"temperature": 1.0}],
)
def test_the_end_of_each_range_changes_nothing(off: dict[str, Any]) -> None:
    logits = normal(2, 500)
    assert torch.equal(filtered(logits, torch.tensor([[1, 2], [3, 3]]), Sampling(**off)), logits)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("temperature", -0.1, "0 (greedy) or more"),
        ("temperature", float("nan"), "0 (greedy) or more"),
        ("temperature", float("inf"), "0 (greedy) or more"),
        ("top_k", 0, "1 or more"),
        ("top_k", -1, "1 or more"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", -0.01, "between 0 and 1"),
        ("min_p", 2.0, "between 0 and 1"),
        ("repetition_penalty", 0.0, "above 0"),
        ("repetition_penalty", float("inf"), "above 0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(UserError) as error:
        Sampling(**{name: value})
    assert f"{name} is {value}" in str(error.value)
    assert wanted in str(error.value)
