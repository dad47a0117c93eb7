"""What is measured before a run: a search that keeps to what fits, and a trial that may die."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend

from llamita.config import RunConfig
from llamita.training import tuning
from llamita.training.sizes import THIS_MACHINE
from llamita.training.tuning import attention_seconds, find_micro_batch, pinned, seconds_per_token, tuned
from tests.training.tiny_runs import small_config

ON_GPU = {"training__device": "cuda", "training__precision": "bf16"}


def batch_of(rows: int, micro: int, seq_len: int = 32) -> RunConfig:
    return small_config(training__batch_size=rows, training__micro_batch_size=micro, model__max_seq_len=seq_len)


@pytest.mark.parametrize(
    ("start", "largest", "speeds", "best", "tried"),
    [
        (8, 64, {8: 3.0, 16: 2.0, 32: 1.5, 64: 1.2}, 64, [8, 16, 32, 64]),
        (8, 16, {8: 3.0, 16: 2.0}, 16, [8, 16]),  # the next one doesn't fit
        (8, 64, {4: 3.5, 8: 3.0, 16: 2.99}, 8, [4, 8, 16]),  # hardly faster, and not worth the memory
        (8, 64, {4: 2.0, 8: 3.0, 16: 3.5}, 4, [4, 8, 16]),
        (64, 16, {16: 1.0}, 16, [16]),  # too large at first
        (64, 0, {}, 64, []),  # none fits: as it was
        (6, 64, {4: 1.0, 8: 0.5, 16: 0.6}, 8, [4, 8, 16]),  # not a divisor
    ],
)
def test_the_search_goes_where_it_gets_faster(
    start: int, largest: int, speeds: dict[int, float], best: int, tried: list[int]
) -> None:
    config = batch_of(64, 2)
    object.__setattr__(config.training, "micro_batch_size", start)
    asked = []

    def probe(changed: RunConfig) -> float | None:
        rows = changed.training.micro_batch_size
        asked.append(rows)
        assert changed.training.accumulation == 1 and changed.model == config.model
        return speeds[rows] if rows <= largest else None

    rows, found = find_micro_batch(config, probe)
    assert rows == best and found == {one: speeds[one] for one in tried}
    assert len(asked) == len(set(asked))


@given(
    batch=st.integers(1, 96),
    micro=st.integers(1, 96),
    seconds=st.lists(st.one_of(st.none(), st.floats(0.1, 10)), min_size=96, max_size=96),
)
def test_what_is_found_divides_the_batch_and_was_tried(batch: int, micro: int, seconds: list[float | None]) -> None:
    config = batch_of(batch, batch)
    object.__setattr__(config.training, "micro_batch_size", min(micro, batch))
    rows, tried = find_micro_batch(config, lambda one: seconds[one.training.micro_batch_size - 1])
    assert rows in tried or (not tried and rows == min(micro, batch))
    assert all(batch % one == 0 for one in tried)


def test_in_fp8_only_even_numbers_of_tokens_are_tried() -> None:
    tried = []

    def only_one_fits(config: RunConfig) -> float | None:
        tried.append(config.training.micro_batch_size)
        return None

    config = batch_of(512, 32, 1000)
    config = replace(config, training=replace(config.training, precision="fp8"))
    assert find_micro_batch(config, only_one_fits) == (32, {})
    assert tried == [32, 16, 8, 4, 2]  # 1,000 is no multiple of 16


def test_no_micro_batch_is_larger_than_a_gpu_can_use() -> None:
    tried = []

    def faster(config: RunConfig) -> float:
        tried.append(config.training.micro_batch_size)
        return 1 / len(tried)

    rows, _ = find_micro_batch(batch_of(256, 1, 1024), faster)
    assert rows == max(tried) == 64


def test_a_trial_runs_in_a_process_of_its_own_and_may_die(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = small_config()
    seconds = seconds_per_token(config)
    assert seconds is not None and 1e-9 < seconds < 10
    for dies in ("import os; os.kill(os.getpid(), 9)", "raise MemoryError", "print('no JSON')", "print('{}')"):
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{dies}"\n')
        python.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(python))
        assert seconds_per_token(config) is None
        monkeypatch.undo()


def test_attention_is_timed_by_every_kernel_that_runs_here() -> None:
    found = attention_seconds(small_config(model__n_kv_heads=1))
    assert "flash" in found and not {"cudnn", "math"} & found.keys()
    assert all(0 < seconds < 10 for seconds in found.values())


def test_a_pinned_kernel_is_asked_first_and_others_stay() -> None:
    q = torch.randn(1, 2, 600, 8)
    before = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    for kernel in ("auto", "torch", "math", "flash"):
        with pinned(kernel):
            order = torch._C._get_sdp_priority_order()
            torch.testing.assert_close(F.scaled_dot_product_attention(q, q, q, is_causal=True), before)
        if kernel in ("math", "flash"):
            assert order[0] == int(getattr(SDPBackend, {"math": "MATH", "flash": "FLASH_ATTENTION"}[kernel]).value)
            assert len(set(order)) >= 4


@pytest.mark.parametrize(
    ("origin", "asked"), [("command line", True), ("preset.toml", True), ("preset 124m", False), ("default", False)]
)
def test_what_was_asked_for_is_not_measured(origin: str, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "attention_seconds", lambda _: {"flash": 2e-3, "cudnn": 1e-3})
    monkeypatch.setattr(tuning, "find_micro_batch", lambda *_: (2, {1: 2e-6, 2: 1e-6}))
    monkeypatch.setattr(tuning, "_worth_trying", lambda _: True)
    told: list[str] = []
    config = small_config(**ON_GPU, training__batch_size=4)
    masked = small_config(**ON_GPU, data__packing="documents")
    assert tuned(masked, {"training.micro_batch_size": "command line"}, pytest.fail).training.attention == "torch"
    found = tuned(config, {"training.micro_batch_size": origin}, told.append)
    assert found.training.attention == "cudnn" and "cudnn 1.00 ms" in told[0]
    assert found.training.micro_batch_size == (4 if asked else 2)
    assert asked or "2 rows 1,000,000 tok/s" in told[2]
    pinned_by_hand = replace(config, training=replace(config.training, attention="flash"))
    assert tuned(pinned_by_hand, {}, told.append).training.attention == "flash"


def test_that_no_micro_batch_fits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "attention_seconds", lambda _: {})
    monkeypatch.setattr(tuning, "seconds_per_token", lambda _: None)
    monkeypatch.setattr(tuning, "_worth_trying", lambda _: True)
    told: list[str] = []
    config = small_config(**ON_GPU, training__batch_size=4)
    assert tuned(config, {}, told.append).training.micro_batch_size == config.training.micro_batch_size
    assert told[-1] == "no trial of a micro-batch went well; --training.recompute-layers N takes less memory"


@pytest.mark.parametrize(
    ("times", "threads", "precision"),
    [
        ({(8, "bf16"): 1.0, (4, "bf16"): 0.9, (1, "bf16"): 2.0, (8, "fp32"): 2.0}, 8, "bf16"),  # not clearly better
        ({(8, "bf16"): 1.0, (4, "bf16"): 0.7, (1, "bf16"): 0.75, (8, "fp32"): 2.0}, 4, "bf16"),
        ({(8, "bf16"): 1.0, (4, "bf16"): 1.0, (1, "bf16"): 0.5, (8, "fp32"): 0.6}, 1, "bf16"),
        ({(8, "bf16"): 1.0, (4, "bf16"): 1.0, (1, "bf16"): 1.0, (8, "fp32"): 0.6}, 8, "fp32"),
    ],
)
def test_a_cpu_gets_fewer_threads_or_fp32_where_that_is_clearly_faster(
    times: dict[tuple[int, str], float], threads: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def timed(config: RunConfig) -> float:
        asked.append((config.training.threads, config.training.precision))
        assert torch.get_num_threads() == config.training.threads
        return times[asked[-1]]

    monkeypatch.setattr(tuning, "seconds_per_step", timed)
    config = small_config(training__threads=8, training__precision="bf16")
    mine = dict.fromkeys(("training.threads", "training.precision"), THIS_MACHINE)
    before, told = torch.get_num_threads(), list[str]()
    found = tuned(config, mine, told.append).training
    assert (found.threads, found.precision) == (threads, precision)
    kept_to_the_rule = (threads, precision) == (8, "bf16")
    assert sorted(asked) == sorted([*times] * (1 if kept_to_the_rule else 3)) and torch.get_num_threads() == before
    assert bool(told) != kept_to_the_rule
    asked.clear()
    kept = tuned(config, {**mine, "training.threads": "command line"}, told.append).training
    assert kept.threads == 8 and {one for one, _ in asked} == {8}
    asked.clear()
    tuned(config, {**mine, "training.precision": "command line"}, told.append)
    assert {one for _, one in asked} == {"bf16"}


def test_a_moment_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def slow_once(config: RunConfig) -> float:
        calls.append(config.training.threads)
        return 10.0 if len(calls) == 1 else 1.0

    monkeypatch.setattr(tuning, "seconds_per_step", slow_once)
    config = small_config(training__threads=4)
    assert tuned(config, {"training.threads": THIS_MACHINE}, pytest.fail).training.threads == 4


def test_what_was_asked_for_on_a_cpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("attention_seconds", "seconds_per_step"):
        monkeypatch.setattr(tuning, name, lambda _: pytest.fail("measured"))
    config = small_config(training__threads=4, training__precision="bf16")
    by_torch = replace(config, training=replace(config.training, attention="torch"))
    assert tuned(config, {}, pytest.fail) == by_torch


@pytest.mark.parametrize(("steps", "memory", "worth"), [(1, 1 << 40, False), (10**12, 1 << 40, True), (1, 1, True)])
def test_a_micro_batch_is_tried_for_long_runs_and_tight_memory(
    steps: int, memory: int, worth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        total_memory = memory

    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Properties)
    assert tuning._worth_trying(small_config(**ON_GPU, training__steps=steps)) == worth
