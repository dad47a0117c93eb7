from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llamita.model.kv_cache import KVCache
from llamita.model.transformer import LLaMaTransformer
from tests.model.tiny import random_tokens, stirred, tiny_config

VARIANTS: list[dict[str, Any]] = [
    {},
    {"n_kv_heads": 4, "tie_embeddings": False},
    {"n_kv_heads": 1, "qk_norm": True},
    {"positions": "learned"},
    {"positions": "none", "head_dim": 6},
]


@torch.no_grad()
def decode(model: LLaMaTransformer, tokens: Tensor, cuts: set[int]) -> Tensor:
    """Logits of all positions, given to the model in the pieces between the cuts."""
    cache = KVCache(model.config, tokens.shape[0])
    bounds = sorted({0, tokens.shape[1], *cuts})
    pieces = [model(tokens[:, start:end], cache) for start, end in zip(bounds, bounds[1:], strict=False)]
    assert cache.length == tokens.shape[1]
    return torch.cat(pieces, dim=1)


@settings(deadline=None, max_examples=30)
@given(variant=st.sampled_from(VARIANTS), cuts=st.sets(st.integers(1, 11)), seed=st.integers(0, 99))
def test_cached_decoding_matches_full_forward(variant: dict[str, Any], cuts: set[int], seed: int) -> None:
    model = stirred(tiny_config(**variant), seed)
    tokens = random_tokens(2, 12, seed=seed)
    torch.testing.assert_close(decode(model, tokens, cuts), model(tokens).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cuts", [set(), set(range(1, 16)), {15}, {1}, {4, 8, 12}])
def test_the_cache_serves_up_to_the_last_position(cuts: set[int]) -> None:
    model = stirred(tiny_config())
    tokens = random_tokens(1, 16)
    torch.testing.assert_close(decode(model, tokens, cuts), model(tokens).detach(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_sequence_beyond_the_context_is_refused_with_its_length() -> None:
    model = stirred(tiny_config())
    with pytest.raises(ValueError, match=r"17 positions.*model\.max_seq_len is 16"):
        model(random_tokens(1, 17))
    cache = KVCache(model.config, 1)
    model(random_tokens(1, 15), cache)
    with pytest.raises(ValueError, match=r"17 positions.*model\.max_seq_len is 16"):
        model(random_tokens(1, 2), cache)
    assert cache.length == 15


@torch.no_grad()
def test_a_narrow_cache_changes_logits_little() -> None:
    model = stirred(tiny_config())
    tokens = random_tokens(2, 12)
    cache = KVCache(model.config, 2, dtype=torch.bfloat16)
    logits = torch.cat([model(tokens[:, i : i + 1], cache) for i in range(12)], dim=1)
    exact = model(tokens)
    assert logits.dtype == torch.float32
    assert (logits - exact).norm() < 0.02 * exact.norm()


@torch.no_grad()
def test_documents_with_a_cache_are_refused() -> None:
    model = stirred(tiny_config())
    with pytest.raises(AssertionError, match="not both"):
        model(random_tokens(1, 4), KVCache(model.config, 1), torch.zeros(1, 4, dtype=torch.long))
