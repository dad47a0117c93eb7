"""Enough is tried, of every kind. That it really is, each test asserts of its own cases."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.plan import MANY, SOME, rounds
from tests.fuzz.trial import tried


def test_there_are_hundreds_of_cases_in_every_run_and_thousands_in_a_slow_one() -> None:
    assert sum(SOME.values()) >= 300
    assert sum(MANY.values()) >= 10_000
    assert MANY.keys() == SOME.keys() and all(MANY[kind] > SOME[kind] for kind in SOME)


@pytest.mark.parametrize("kind", SOME)
def test_the_rounds_of_a_kind_are_one_quick_and_some_slow_ones_of_all_its_cases(kind: str) -> None:
    quick, *slow = rounds(kind).args[1]
    assert quick.values[0] == SOME[kind] and not quick.marks
    assert sum(one.values[0] for one in slow) >= MANY[kind]
    assert all([mark.name for mark in one.marks] == ["slow"] for one in slow)
    assert len({one.values[1] for one in (quick, *slow)}) == 1 + len(slow)


def test_every_kind_is_tried_by_one_test() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("test_*.py")))
    assert all(source.count(f'@rounds("{kind}")\n') == 1 for kind in SOME)


def test_cases_are_counted_when_they_are_tried() -> None:
    seen: list[int] = []

    def attempt(case: int) -> bool:
        seen.append(case)
        return case % 2 == 0

    assert tried(st.integers(), 50, attempt, seed=3) == len(seen) == 50
    with pytest.raises(AssertionError):
        tried(st.just(1), 50, attempt)
