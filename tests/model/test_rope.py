import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamita.config import RopeScaling
from llamita.model.rope import rope_frequencies, rope_tables, rotate
from tests.oracles import rope_by_complex_numbers

LINEAR = RopeScaling(kind="linear", factor=4.0, original_max_seq_len=32)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=64, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32, beta_fast=4.0, beta_slow=1.0)


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3])
def test_rotation_is_a_complex_multiplication(scaling: RopeScaling | None) -> None:
    x = torch.randn(2, 40, 3, 16, generator=torch.Generator().manual_seed(0))
    frequencies, factor = rope_frequencies(16, 10000.0, scaling)
    turned = rotate(x, *rope_tables(16, 40, 10000.0, scaling))
    expected = rope_by_complex_numbers(x, frequencies, torch.arange(40))
    assert factor == 1.0
    torch.testing.assert_close(turned.double(), expected, atol=2e-5, rtol=0)


def test_plain_frequencies_fall_geometrically_from_one_radian() -> None:
    frequencies, _ = rope_frequencies(8, 10000.0, None)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 1e-1, 1e-2, 1e-3]))


def test_position_zero_is_not_turned() -> None:
    x = torch.randn(1, 1, 2, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rotate(x, *rope_tables(8, 1, 10000.0, None)), x)


@settings(deadline=None, max_examples=30)
@given(distance=st.integers(0, 60), first=st.integers(0, 60), second=st.integers(0, 60), seed=st.integers(0, 99))
def test_scores_depend_on_distance_only(distance: int, first: int, second: int, seed: int) -> None:
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)).double()
    cos, sin = (table.double() for table in rope_tables(16, 128, 10000.0, YARN))

    def score(start: int) -> float:
        turned_k = rotate(k.view(1, 1, 1, -1), cos[start, None], sin[start, None])
        turned_q = rotate(q.view(1, 1, 1, -1), cos[start + distance, None], sin[start + distance, None])
        return float((turned_q * turned_k).sum())

    assert score(first) == pytest.approx(score(second), abs=1e-4)


def test_scores_change_with_distance() -> None:
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(q.expand(1, 8, 1, 16), *rope_tables(16, 8, 10000.0, None))
    scores = (turned @ k).flatten()
    assert scores.unique().numel() == 8


def test_linear_scaling_stretches_positions() -> None:
    plain = rope_tables(16, 10, 10000.0, None)
    stretched = rope_tables(16, 37, 10000.0, LINEAR)
    for table, longer in zip(plain, stretched, strict=True):
        torch.testing.assert_close(longer[::4], table)


def test_llama3_keeps_fast_waves_stretches_slow_ones_and_blends_between() -> None:
    plain, _ = rope_frequencies(64, 10000.0, None)
    scaled, _ = rope_frequencies(64, 10000.0, LLAMA3)
    turns = 64 * plain / (2 * math.pi)
    fast, slow = turns > 4, turns < 1
    between = ~fast & ~slow
    assert fast.any() and slow.any() and between.any()
    torch.testing.assert_close(scaled[fast], plain[fast])
    torch.testing.assert_close(scaled[slow], plain[slow] / 8)
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_yarn_ramps_from_kept_to_stretched_and_raises_the_temperature() -> None:
    plain, _ = rope_frequencies(64, 10000.0, None)
    scaled, factor = rope_frequencies(64, 10000.0, YARN)
    ratio = scaled / plain
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(1 / 4)
    assert (ratio.diff() <= 1e-6).all()
    assert ((ratio < 0.99) & (ratio > 0.26)).sum() >= 2
    assert factor == pytest.approx(0.1 * math.log(4.0) + 1)
    cos, sin = rope_tables(64, 3, 10000.0, YARN)
    torch.testing.assert_close(cos.square() + sin.square(), torch.full((3, 32), factor**2))


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_a_factor_of_one_changes_nothing(kind: str) -> None:
    scaling = RopeScaling(kind=kind, factor=1.0, original_max_seq_len=32)  # type: ignore[arg-type]
    plain, scaled = (rope_tables(32, 20, 10000.0, given) for given in (None, scaling))
    for table, same in zip(plain, scaled, strict=True):
        torch.testing.assert_close(same, table)


def test_rotation_keeps_a_narrow_dtype() -> None:
    x = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(0))
    tables = rope_tables(8, 5, 10000.0, None)
    turned = rotate(x.bfloat16(), *tables)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float(), rotate(x, *tables), atol=0.05, rtol=0)
