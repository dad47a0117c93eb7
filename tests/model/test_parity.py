"""Logits equal to those of transformers, whose weights are loaded through a mapping of names."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llamita.config import RopeScaling
from llamita.model.kv_cache import KVCache
from llamita.model.rope import rope_frequencies
from llamita.model.transformer import LLaMaTransformer
from tests.model.tiny import random_tokens, tiny_config

RENAMED = {
    "model.embed_tokens": "embeddings",
    "model.layers": "decoder_blocks",
    "self_attn": "attention",
    "mlp": "feed_forward",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
    "model.norm": "norm",
}
THETA = 500.0
CONTEXT = 96
# Contexts and ramps so short that fast, slow and blended waves all occur in heads of 16 coordinates.
SCALINGS = {
    "no": None,
    "linear": RopeScaling(kind="linear", factor=4.0, original_max_seq_len=24),
    "llama3": RopeScaling(
        kind="llama3", factor=8.0, original_max_seq_len=48, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    "yarn": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=24, beta_fast=2.0, beta_slow=0.25),
}


def rope_parameters(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default", "rope_theta": THETA}
    parameters = {"rope_type": scaling.kind, "rope_theta": THETA, "factor": scaling.factor}
    if scaling.kind != "linear":
        parameters["original_max_position_embeddings"] = scaling.original_max_seq_len
    if scaling.kind == "llama3":
        parameters["low_freq_factor"] = scaling.low_freq_factor
        parameters["high_freq_factor"] = scaling.high_freq_factor
    if scaling.kind == "yarn":
        parameters["beta_fast"], parameters["beta_slow"] = scaling.beta_fast, scaling.beta_slow
    return parameters


def foreign_shape(n_kv_heads: int, tied: bool, scaling: RopeScaling | None) -> dict[str, Any]:
    return {
        "vocab_size": 61,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": n_kv_heads,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "rope_parameters": rope_parameters(scaling),
    }


def our_shape(n_kv_heads: int, tied: bool, scaling: RopeScaling | None) -> dict[str, Any]:
    return {
        "n_embd": 64,
        "ffn_dim": 96,
        "n_kv_heads": n_kv_heads,
        "max_seq_len": CONTEXT,
        "rope_theta": THETA,
        "rope_scaling": scaling,
        "tie_embeddings": tied,
        "embedding_scale": 1.0,
    }


@torch.no_grad()
def stir(foreign: nn.Module) -> None:
    """Weights so large that attention has opinions: fresh ones look at all positions alike."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in foreign.named_parameters():
        if weight.dim() == 1:
            weight.normal_(1, 0.2, generator=generator)
        else:
            sharp = 2 if "q_proj" in name or "k_proj" in name else 1
            weight.normal_(0, sharp * weight.shape[1] ** -0.5, generator=generator)


def our_name(name: str) -> str:
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours, 1)
    return name


def load_from(foreign: nn.Module, model: LLaMaTransformer) -> None:
    """Every weight under our name; an unknown or missing one is an error."""
    weights: dict[str, Tensor] = {}
    for name, weight in foreign.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_embeddings:
            continue
        weights[our_name(name)] = weight
    model.load_state_dict(weights)


def greatest_difference(ours: Tensor, theirs: Tensor) -> float:
    """In units of the largest of their logits."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_llama(tied: bool, n_kv_heads: int, kind: str) -> None:
    foreign = LlamaForCausalLM(LlamaConfig(**foreign_shape(n_kv_heads, tied, SCALINGS[kind]))).eval()
    stir(foreign)
    model = LLaMaTransformer(tiny_config(**our_shape(n_kv_heads, tied, SCALINGS[kind])))
    load_from(foreign, model)
    tokens = random_tokens(2, CONTEXT)
    expected = foreign(tokens).logits
    assert greatest_difference(model(tokens), expected) < 1e-5
    cache = KVCache(model.config, 2)
    pieces = [model(tokens[:, start : start + 40], cache) for start in range(0, CONTEXT, 40)]
    assert greatest_difference(torch.cat(pieces, dim=1), expected) < 1e-5
    if kind != "no":
        plain = LLaMaTransformer(tiny_config(**our_shape(n_kv_heads, tied, None)))
        plain.load_state_dict(model.state_dict())
        assert greatest_difference(plain(tokens), expected) > 1e-2


@torch.no_grad()
def test_a_scaled_tie_equals_a_foreign_untied_model_with_the_scale_folded_in() -> None:
    foreign = LlamaForCausalLM(LlamaConfig(**foreign_shape(2, False, None))).eval()
    stir(foreign)
    shape = our_shape(2, True, None) | {"embedding_scale": 7.0}
    model = LLaMaTransformer(tiny_config(**shape))
    foreign.model.embed_tokens.weight.copy_(7.0 * foreign.lm_head.weight)
    load_from(foreign, model)
    model.embeddings.weight.copy_(foreign.lm_head.weight)
    tokens = random_tokens(2, 30)
    assert greatest_difference(model(tokens), foreign(tokens).logits) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_qwen3_with_its_normed_queries_and_keys(tied: bool) -> None:
    foreign = Qwen3ForCausalLM(Qwen3Config(**foreign_shape(2, tied, None))).eval()
    stir(foreign)
    model = LLaMaTransformer(tiny_config(**our_shape(2, tied, None), qk_norm=True))
    load_from(foreign, model)
    tokens = random_tokens(2, CONTEXT)
    assert greatest_difference(model(tokens), foreign(tokens).logits) < 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_those_of_llama(tied: bool) -> None:
    foreign = LlamaForCausalLM(LlamaConfig(**foreign_shape(2, tied, None))).eval()
    stir(foreign)
    model = LLaMaTransformer(tiny_config(**our_shape(2, tied, None)))
    load_from(foreign, model)
    tokens = random_tokens(2, 40)
    for logits in (foreign(tokens).logits, model(tokens)):
        logits.square().mean().backward()
    theirs = {name: weight.grad for name, weight in foreign.named_parameters()}
    assert len(theirs) == len(list(model.parameters()))
    for name, gradient in theirs.items():
        ours = model.get_parameter(our_name(name)).grad
        assert ours is not None and gradient is not None
        assert greatest_difference(ours, gradient) < 1e-4


@pytest.mark.parametrize("kind", SCALINGS)
def test_rope_frequencies_equal_those_of_transformers(kind: str) -> None:
    foreign = LlamaForCausalLM(LlamaConfig(**foreign_shape(2, True, SCALINGS[kind])))
    frequencies, factor = rope_frequencies(16, THETA, SCALINGS[kind])
    torch.testing.assert_close(frequencies, foreign.model.rotary_emb.inv_freq)
    assert factor == pytest.approx(foreign.model.rotary_emb.attention_scaling)
    scaling = SCALINGS[kind]
    if scaling is not None:
        plain, _ = rope_frequencies(16, THETA, None)
        kept, stretched = (torch.isclose(frequencies, wanted) for wanted in (plain, plain / scaling.factor))
        assert stretched.any()
        assert kind == "linear" or (kept.any() and (~kept & ~stretched).any())
