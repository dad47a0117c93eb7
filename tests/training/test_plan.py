"""What a plan says of a configuration is what building and training it would show."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamita.config import ModelConfig, RunConfig, TrainingConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.training.plan import count_parameters, flops_per_token, make_plan, seconds_per_step, training_memory
from tests.training.tiny_runs import small_config

shapes = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(1, 300),
        "n_embd": st.integers(1, 80),
        "n_layers": st.integers(1, 4),
        "head_dim": st.integers(1, 12).map(lambda half: 2 * half),
        "multiple_of": st.integers(1, 40),
        "max_seq_len": st.integers(1, 64),
        "positions": st.sampled_from(["rope", "learned", "none"]),
        "tie_embeddings": st.booleans(),
        "qk_norm": st.booleans(),
    },
    optional={"ffn_dim": st.integers(1, 100)},
)


@settings(deadline=None)
@given(shapes, st.integers(1, 4), st.integers(1, 3))
def test_the_count_of_parameters_is_that_of_the_model(shape: dict[str, Any], n_kv_heads: int, group: int) -> None:
    config = ModelConfig(**shape, n_heads=n_kv_heads * group, n_kv_heads=n_kv_heads)
    with torch.device("meta"):
        model = LLaMaTransformer(config)
    counts = count_parameters(config)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["embeddings"] == model.embeddings.weight.numel()
    assert counts["head"] == (0 if model.lm_head is None else model.lm_head.weight.numel())
    assert counts["norms"] == sum(weight.numel() for name, weight in model.named_parameters() if "norm" in name)
    assert counts["feed_forward"] == sum(
        weight.numel() for name, weight in model.named_parameters() if ".feed_forward." in name
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("model__n_layers", 4),
        ("model__n_embd", 64),
        ("model__ffn_dim", 256),
        ("model__max_seq_len", 64),
        ("training__batch_size", 8),
    ],
)
def test_more_of_anything_takes_more_memory(name: str, more: int, device: str, precision: str) -> None:
    machine = {"training__device": device, "training__precision": precision}
    less = training_memory(small_config(**machine))
    assert 0 < less < training_memory(small_config(**machine, **{name: more}))
    assert training_memory(small_config(100, **machine)) > less


def test_smaller_micro_batches_take_less_memory() -> None:
    assert training_memory(small_config(training__micro_batch_size=1)) < training_memory(small_config())


def test_a_training_step_needs_four_copies_of_the_weights_at_least() -> None:
    config = small_config(training__batch_size=1, model__n_embd=256)
    assert training_memory(config) > 16 * sum(count_parameters(config.model).values())


def test_operations_are_six_a_weight_and_token_where_attention_is_cheap() -> None:
    config = small_config(100_000, model__n_embd=256, model__max_seq_len=2).model
    counts = count_parameters(config)
    weights = counts["embeddings"] + counts["attention"] + counts["feed_forward"]
    assert flops_per_token(config) == pytest.approx(6 * weights, rel=0.01)
    longer = replace(config, max_seq_len=512)
    assert flops_per_token(longer) > flops_per_token(config)


def test_a_plan_adds_up() -> None:
    config = small_config(training__steps=10)
    plan = make_plan(config, corpus_tokens=640)
    assert plan.tokens_per_step == 4 * 32
    assert (plan.steps, plan.tokens, plan.epochs) == (10, 1280, 2.0)
    assert plan.flops == 1280 * flops_per_token(config.model)
    assert plan.memory_bytes == training_memory(config)
    assert plan.parameters == count_parameters(config.model)
    assert plan.seconds > 0
    assert make_plan(config).epochs is None


@pytest.mark.parametrize(("corpus_tokens", "warned"), [(320, False), (319, True)])
def test_more_than_four_epochs_are_warned_of(corpus_tokens: int, warned: bool) -> None:
    plan = make_plan(small_config(64, training__steps=10), corpus_tokens)
    assert any("epochs" in warning and "--training.steps" in warning for warning in plan.warnings) is warned


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_of_more_than_two_fifths_is_warned_of(tied: bool) -> None:
    body = sum(count_parameters(small_config(1).model).values()) - 32
    edge = round(2 / 3 * body / 32 / (1 if tied else 2))
    for vocab_size, warned in ((edge - 2, False), (edge + 2, True)):
        plan = make_plan(small_config(vocab_size, model__tie_embeddings=tied))
        assert any("--tokenizer.vocab-size" in warning for warning in plan.warnings) is warned


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__positions": "none", "model__head_dim": 9},
        {"model__positions": "learned"},
        {"model__qk_norm": True, "model__n_kv_heads": 1},
        {"training__precision": "bf16"},
        {"model__max_seq_len": 1100, "training__batch_size": 1},
    ],
)
def test_any_configuration_can_be_timed(changes: dict[str, Any]) -> None:
    assert 0 < seconds_per_step(small_config(**changes)) < 10


def test_timing_draws_no_random_numbers_of_the_run() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    seconds_per_step(small_config())
    assert torch.equal(torch.rand(3), expected)


def test_time_grows_with_the_batch() -> None:
    small = small_config()
    large: RunConfig = replace(small, training=replace(small.training, batch_size=400, micro_batch_size=4))
    assert isinstance(large.training, TrainingConfig)
    assert seconds_per_step(large) > 10 * seconds_per_step(small)


SHAPES = {
    "30m": {"vocab_size": 16384, "n_embd": 384, "n_layers": 12, "n_heads": 6, "ffn_dim": 1024, "max_seq_len": 512},
    "124m": {"vocab_size": 32768, "n_embd": 768, "n_layers": 12, "n_heads": 12, "ffn_dim": 2048, "max_seq_len": 1024},
    "1b": {"vocab_size": 32000, "n_embd": 2048, "n_layers": 22, "n_heads": 32, "ffn_dim": 5632, "max_seq_len": 2048}
    | {"n_kv_heads": 4},
}


@pytest.mark.parametrize(
    ("shape", "rows", "compiled", "gib"),
    [
        ("30m", 128, True, 10.21),
        ("30m", 256, True, 19.43),
        ("124m", 16, True, 6.92),
        ("124m", 16, False, 8.04),
        ("124m", 32, True, 11.60),
        ("124m", 128, True, 39.78),
        ("1b", 8, True, 35.07),
    ],
)
def test_a_gpus_peak_is_near_what_was_measured(shape: str, rows: int, compiled: bool, gib: float) -> None:
    # Untied, in bf16, on an H200 (docs/log.md, 2026-11-27).
    model = ModelConfig(**SHAPES[shape], tie_embeddings=False)  # type: ignore[arg-type]
    training = TrainingConfig(batch_size=rows, device="cuda", precision="bf16", compile=compiled)
    assert training_memory(RunConfig(model=model, training=training)) / 2**30 == pytest.approx(gib, rel=0.02)


def test_fp8_and_recomputed_layers_need_less() -> None:
    model = ModelConfig(**SHAPES["124m"])  # type: ignore[arg-type]
    plain, fp8, again = (
        training_memory(RunConfig(model=model, training=TrainingConfig(device="cuda", compile=True, **changed)))
        for changed in ({"precision": "bf16"}, {"precision": "fp8"}, {"precision": "bf16", "recompute_layers": 6})
    )
    assert again < 0.7 * plain < fp8 < 0.97 * plain


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_blocks_that_are_computed_again_take_less_memory(device: str) -> None:
    sizes = [
        training_memory(small_config(training__device=device, training__recompute_layers=again, model__n_layers=6))
        for again in (0, 2, 4, 6, 9)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == sizes[4]
