import math
import re
import subprocess
import sys
from typing import Any

import pytest

from llamita.config import ModelConfig, RopeScaling
from llamita.errors import UserError

COPY_OF_256 = math.log(1 + 256 / 15)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"n_kv_heads": 4, "head_dim": 64, "ffn_dim": 704, "embedding_std": COPY_OF_256 / 256}),
        ({"n_heads": 8, "n_kv_heads": 2}, {"n_kv_heads": 2, "head_dim": 32}),
        ({"n_heads": 8, "head_dim": 24}, {"n_kv_heads": 8, "head_dim": 24}),
        ({"n_embd": 64}, {"head_dim": 16, "ffn_dim": 192, "embedding_scale": 0.2 * 64 / COPY_OF_256}),
        ({"n_embd": 16}, {"embedding_std": 0.5 / 4, "embedding_scale": 1.6}),
        ({"vocab_size": 32768, "n_embd": 768}, {"embedding_std": 0.01002, "embedding_scale": 19.96}),
        ({"vocab_size": 320, "unpredicted_rows": 64}, {"embedding_std": COPY_OF_256 / 256}),
        ({"n_embd": 4096, "multiple_of": 256}, {"ffn_dim": 11008}),
        ({"n_embd": 96, "multiple_of": 1}, {"ffn_dim": 256}),
        ({"ffn_dim": 100}, {"ffn_dim": 100}),
        ({"tie_embeddings": False}, {"embedding_std": 1.0, "embedding_scale": 1.0}),
        ({"embedding_std": 0.05}, {"embedding_std": 0.05, "embedding_scale": 4.0}),
        ({"embedding_scale": 1.0}, {"embedding_std": COPY_OF_256 / 256, "embedding_scale": 1.0}),
    ],
)
def test_what_is_not_given_follows_from_what_is(given: dict[str, Any], expected: dict[str, Any]) -> None:
    config = ModelConfig(**{"vocab_size": 256, **given})
    assert {name: getattr(config, name) for name in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("vocab_size", [2, 30, 256, 50257, 1 << 20])
@pytest.mark.parametrize("n_embd", [8, 96, 768, 8192])
def test_a_tied_table_starts_near_a_guess_whatever_its_shape(vocab_size: int, n_embd: int) -> None:
    """By the law: the copy logit is std * n_embd, the others' variance std^2 * n_embd adds half of itself."""
    std = ModelConfig(vocab_size=vocab_size, n_embd=n_embd).embedding_std
    loss = math.log(vocab_size - 1 + math.exp(std * n_embd)) + std**2 * n_embd / 2
    assert loss - math.log(vocab_size) < 0.2


@pytest.mark.parametrize("unused", [-1, 256, 300])
def test_rows_that_are_unused_must_leave_some(unused: int) -> None:
    with pytest.raises(UserError, match=re.escape(f"model.unpredicted_rows ({unused}) must be from 0 to 255")):
        ModelConfig(vocab_size=256, unpredicted_rows=unused)


@pytest.mark.parametrize(
    "name",
    [
        "vocab_size",
        "n_embd",
        "n_layers",
        "n_heads",
        "multiple_of",
        "max_seq_len",
        "n_kv_heads",
        "head_dim",
        "ffn_dim",
    ],
)
@pytest.mark.parametrize("value", [0, -3])
def test_a_size_below_one_is_refused(name: str, value: int) -> None:
    message = f"model.{name} ({value}) must be greater than 0"
    given: dict[str, Any] = {"vocab_size": 256, name: value}
    with pytest.raises(UserError, match=re.escape(message)):
        ModelConfig(**given)


@pytest.mark.parametrize("name", ["embedding_std", "embedding_scale", "rope_theta", "norm_eps"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_quantity_that_is_not_positive_and_finite_is_refused(name: str, value: float) -> None:
    message = f"model.{name} ({value}) must be greater than 0"
    given: dict[str, Any] = {"vocab_size": 256, name: value}
    with pytest.raises(UserError, match=re.escape(message)):
        ModelConfig(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_heads": 6, "n_kv_heads": 4}, "model.n_heads (6) must be a multiple of model.n_kv_heads (4)"),
        ({"n_heads": 4, "n_kv_heads": 8}, "model.n_heads (4) must be a multiple of model.n_kv_heads (8)"),
        ({"n_embd": 100, "n_heads": 4}, "model.head_dim (25) must be even"),
        ({"n_embd": 2, "n_heads": 4}, "model.head_dim (1) must be even"),
        ({"head_dim": 7}, "model.head_dim (7) must be even"),
    ],
)
def test_an_impossible_shape_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ModelConfig(vocab_size=256, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"factor": 0.0}, "model.rope_scaling.factor (0.0) must be greater than 0"),
        ({"factor": math.inf}, "model.rope_scaling.factor (inf) must be greater than 0"),
        ({"factor": 0.5}, "model.rope_scaling.factor (0.5) must be at least 1"),
        ({"original_max_seq_len": 0}, "model.rope_scaling.original_max_seq_len (0) must be greater than 0"),
        ({"beta_slow": 0.0}, "model.rope_scaling.beta_slow (0.0) must be greater than 0"),
        (
            {"low_freq_factor": 4.0},
            "model.rope_scaling.low_freq_factor (4.0) must be less than model.rope_scaling.high_freq_factor (4.0)",
        ),
        (
            {"beta_fast": 0.5},
            "model.rope_scaling.beta_slow (1.0) must be less than model.rope_scaling.beta_fast (0.5)",
        ),
    ],
)
def test_an_impossible_rope_scaling_is_refused(given: dict[str, Any], message: str) -> None:
    scaling: dict[str, Any] = {"kind": "linear", "factor": 2.0, "original_max_seq_len": 64}
    with pytest.raises(UserError, match=re.escape(message)):
        RopeScaling(**(scaling | given))


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_heads_of_odd_size_are_possible_without_rope(positions: str) -> None:
    assert ModelConfig(vocab_size=256, head_dim=7, positions=positions).head_dim == 7  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "ModelConfig(vocab_size=64, positions='rotary')",
            "model.positions = 'rotary' must be one of 'rope'",
        ),
        ("RopeScaling(kind='ntk', factor=2.0, original_max_seq_len=64)", "model.rope_scaling.kind = 'ntk' must be one"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_in_library_calls_too(call: str, message: str) -> None:
    # In a process of its own: the type checks of the test run would be first to refuse it.
    code = f"from llamita.config import ModelConfig, RopeScaling; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and message in done.stderr
