"""A model as Hugging Face's Llama and Qwen3 have it: fields of config.json and names of weights, both ways round."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llamita.config import ModelConfig, RopeScaling
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer

# Parts of names, ours and theirs.
_MODULES = {
    "embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "lm_head": "lm_head",
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward": "mlp",
}


def hf_name(name: str) -> str:
    """The name that a weight of ours has in a LlamaForCausalLM or Qwen3ForCausalLM."""
    first, *rest = name.split(".")
    if first == "decoder_blocks":
        layer, part, *rest = rest
        return ".".join(["model.layers", layer, _MODULES[part], *rest])
    return ".".join([_MODULES[first], *rest])


def hf_weights(model: LLaMaTransformer, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Weights under their names, one tensor for a tied table; the scale of the lookup is folded into them.

    A tied table is multiplied by its scale and the last norm's gain divided by it: what is looked up has the scale,
    and logits are as they were.
    """
    scale = model.config.embedding_scale
    for name, weight in model.state_dict().items():
        if name == "embeddings.weight":
            weight = weight * scale
        elif name == "norm.weight" and model.config.tie_embeddings:
            weight = weight / scale
        yield hf_name(name), weight.detach().to("cpu", dtype).contiguous()


def hf_config(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json without special tokens, as transformers 4.57 and 5 read it; UserError for what has no place there."""
    if config.positions != "rope":
        raise UserError(
            f"model.positions is {config.positions!r}, and Hugging Face's Llama has RoPE alone: "
            "train with --model.positions rope to export there"
        )
    name = str(dtype).removeprefix("torch.")
    rope = _rope_scaling(config.rope_scaling)
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        **({"use_sliding_window": False} if config.qk_norm else {"mlp_bias": False}),
        "use_cache": True,
        # transformers 4 reads these two, 5 the third.
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "rope_parameters": {**(rope or {"rope_type": "default"}), "rope_theta": config.rope_theta},
        # Likewise the first, and the second.
        "torch_dtype": name,
        "dtype": name,
    }


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    found: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        found["original_max_position_embeddings"] = scaling.original_max_seq_len
    if scaling.kind == "llama3":
        found |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        found |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    return found
