"""The learning rate rises, stays or falls without a jump, and ends where it should."""

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamita.config import OptimizerConfig
from llamita.training.schedule import lr_multiplier

Schedule = Literal["cosine", "wsd"]
SCHEDULES: list[Schedule] = ["cosine", "wsd"]

schedules = st.builds(
    OptimizerConfig,
    schedule=st.sampled_from(SCHEDULES),
    warmup_steps=st.integers(0, 60),
    decay_fraction=st.floats(0, 1),
    min_lr_ratio=st.floats(0, 1),
)


@given(schedules, st.integers(1, 100))
def test_the_rate_has_no_jump(config: OptimizerConfig, steps: int) -> None:
    rates = [lr_multiplier(step, steps, config) for step in range(steps + 1)]
    warmup = min(config.warmup_steps, steps)
    after = max(steps - warmup, 1)
    decay = max(min(round(config.decay_fraction * steps), after), 1)
    steepest = max(1 / (warmup + 1), math.pi / 2 / after if config.schedule == "cosine" else 1 / decay)
    jumps = [abs(later - sooner) for sooner, later in zip(rates, rates[1:], strict=False)]
    assert max(jumps) <= steepest + 1e-9


@given(schedules, st.integers(61, 160))
def test_the_rate_rises_to_its_peak_and_never_rises_again(config: OptimizerConfig, steps: int) -> None:
    rates = [lr_multiplier(step, steps, config) for step in range(steps + 1)]
    warmup = config.warmup_steps
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(1.0)
    assert 0 < rates[0] <= 1


@given(schedules, st.integers(61, 200))
def test_the_rate_ends_at_its_least_share(config: OptimizerConfig, steps: int) -> None:
    assert lr_multiplier(steps, steps, config) == pytest.approx(config.min_lr_ratio)
    assert min(lr_multiplier(step, steps, config) for step in range(60, steps)) >= config.min_lr_ratio - 1e-12


@given(schedules, st.integers(61, 200), st.integers(0, 200), st.floats(0, 1))
def test_a_longer_run_has_at_no_step_a_lower_rate(config: OptimizerConfig, steps: int, more: int, where: float) -> None:
    step = round(where * steps)
    assert lr_multiplier(step, steps + more, config) >= lr_multiplier(step, steps, config) - 1e-12


def test_the_cosine_is_halfway_down_in_the_middle() -> None:
    config = OptimizerConfig(schedule="cosine", warmup_steps=10, min_lr_ratio=0.2)
    assert lr_multiplier(60, 110, config) == pytest.approx(0.6)
    assert lr_multiplier(35, 110, config) == pytest.approx(0.2 + 0.8 * (0.5 + math.sqrt(0.125)))


def test_wsd_stays_at_its_peak_until_it_falls_in_a_straight_line() -> None:
    config = OptimizerConfig(schedule="wsd", warmup_steps=10, decay_fraction=0.25, min_lr_ratio=0.2)
    rates = [lr_multiplier(step, 100, config) for step in range(101)]
    assert set(rates[10:76]) == {1.0}
    assert rates[80] == pytest.approx(0.84)
    assert rates[100] == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warmup_begins_above_zero_and_rises_evenly(schedule: Schedule) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_steps=4)
    assert [lr_multiplier(step, 100, config) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_one_step_learns_something(schedule: Schedule) -> None:
    assert lr_multiplier(0, 1, OptimizerConfig(schedule=schedule, warmup_steps=100)) > 0
