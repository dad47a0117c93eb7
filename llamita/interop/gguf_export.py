"""A run as one GGUF file, which llama.cpp, Ollama and LM Studio load."""

import importlib
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llamita import __version__
from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.files import sync_file, sync_folder
from llamita.interop.hf_names import hf_weights
from llamita.model.rope import rope_frequencies
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]

# llama.cpp's numbers of what most tensors of a file are, and values that a quantized block of a row has.
_FILE_TYPES: dict[GgufType, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
_FINER: dict[GgufType, GgufType] = {"q8_0": "f16", "q4_0": "q8_0"}
_BLOCK = 32
# What goes into each; a block's scale is an f16 that 127 or 8 steps of it are counted in.
_F16, _BF16, _F32 = (torch.finfo(dtype).max for dtype in (torch.float16, torch.bfloat16, torch.float32))
_LARGEST: dict[GgufType, float] = {"f32": _F32, "f16": _F16, "bf16": _BF16, "q8_0": 127 * _F16, "q4_0": 8 * _F16}
_YARN_TURNS = (32.0, 1.0)  # beta_fast and beta_slow that llama.cpp takes, whatever the file says
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # kinds of tokens
# Parts of names, Hugging Face's and GGUF's.
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def export_gguf(
    run: Run, file: Path, *, kind: GgufType = "f16", checkpoint: str = "best", license_name: str | None = None
) -> Path:
    """Write a checkpoint of a run as a new GGUF file, which appears whole or not at all.

    UserError if it is there already, if llama.cpp has no counterpart for the model or its tokenizer, if rows don't
    fill whole quantized blocks, if a weight is too large, without the gguf package, or if the disk doesn't take it.
    """
    if os.path.lexists(file):
        raise UserError(f"{file}: is there already; give a file that isn't")
    if not file.parent.is_dir():
        raise UserError(f"{file}: the folder {file.parent} isn't there; make it first")
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as error:
        raise UserError("exporting GGUF needs the gguf package: pip install 'llamita[gguf]'") from error
    tokenizer = run.tokenizer()
    spec = _readable_tokenizer(tokenizer, run.tokenizer_file)
    arch = _architecture(run.config().model, kind)
    model = run.model(checkpoint)
    aside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with closing(gguf.GGUFWriter(aside, arch)) as writer:
            _add_model(writer, gguf, model.config, kind)
            writer.add_name(run.name)
            writer.add_quantized_by(f"llamita {__version__}")
            if license_name is not None:
                writer.add_license(license_name)
            _add_tokenizer(writer, tokenizer, spec, model.config)
            _add_weights(writer, gguf, model, kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        sync_file(aside)
        os.replace(aside, file)
        sync_folder(file.parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{file}: can't be written ({reason}); make room there or choose another name, and try again"
        ) from error
    finally:
        with suppress(OSError):  # it isn't there, or its name is too long to be
            aside.unlink()
    return file


def gguf_weights(model: LLaMaTransformer) -> Iterator[tuple[str, Tensor]]:
    """Weights under llama.cpp's names in fp32; in a llama its rotation pairs neighbours, so rows of q and k move."""
    config = model.config
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}
    for name, weight in hf_weights(model, torch.float32):
        module = name.removesuffix(".weight")
        if module in _WHOLE:
            yield f"{_WHOLE[module]}.weight", weight
            continue
        _, _, layer, part = module.split(".", 3)
        short = _PARTS[part]
        if short in heads and not config.qk_norm:
            weight = _neighbours_paired(weight, heads[short])
        yield f"blk.{layer}.{short}.weight", weight
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        plain, _ = rope_frequencies(config.head_dim, config.rope_theta, None)
        scaled, _ = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        yield "rope_freqs.weight", plain / scaled


def _neighbours_paired(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head so that those half a head apart become neighbours."""
    halves = weight.view(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def _architecture(config: ModelConfig, kind: GgufType) -> str:
    """The name of the model's architecture in llama.cpp; UserError for a model that it doesn't have."""
    if config.positions != "rope":
        raise UserError(
            f"model.positions is {config.positions!r}, and llama.cpp's llama has RoPE alone: "
            "train with --model.positions rope to export there"
        )
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "llama3" and config.qk_norm:
        raise UserError(
            "model.qk_norm is on and model.rope_scaling.kind 'llama3', which llama.cpp's qwen3 doesn't load: "
            "use `llamita export hf`, or train with --model.rope-scaling.kind yarn or linear"
        )
    if scaling is not None and scaling.kind == "yarn" and (scaling.beta_fast, scaling.beta_slow) != _YARN_TURNS:
        raise UserError(
            f"model.rope_scaling has beta_fast {scaling.beta_fast:g} and beta_slow {scaling.beta_slow:g}, "
            f"and llama.cpp's llama and qwen3 take {_YARN_TURNS[0]:g} and {_YARN_TURNS[1]:g} whatever a file says: "
            "use `llamita export hf`"
        )
    widths = {"n_embd": config.n_embd, "n_heads x head_dim": config.n_heads * config.head_dim}
    if kind == "q4_0":  # q8_0 keeps down_proj finer
        widths["ffn_dim"] = config.ffn_dim
    for name, width in widths.items():
        if kind.startswith("q") and width % _BLOCK:
            raise UserError(f"{name} is {width}, and {kind} packs blocks of {_BLOCK} values; use --type f16 or bf16")
    return "qwen3" if config.qk_norm else "llama"


def _add_weights(writer: Any, gguf: Any, model: LLaMaTransformer, kind: GgufType) -> None:
    """Each weight in what it is stored in; UserError for one that doesn't go in there."""
    readout = f"{_WHOLE['model.embed_tokens' if model.lm_head is None else 'lm_head']}.weight"
    for name, weight in gguf_weights(model):
        stored = _stored_as(name, weight, kind, readout)
        low, high = weight.aminmax()
        largest = max(-float(low), float(high))
        if not largest <= _LARGEST[stored]:
            others = [f"--type {other}" for other in ("bf16", "f32") if largest <= _LARGEST[other]]
            raise UserError(
                f"{name}: its largest value is {largest:g}, and {stored} ends at {_LARGEST[stored]:g}; "
                f"use {' or '.join(others) or 'an earlier --checkpoint'}"
            )
        number = gguf.GGMLQuantizationType[stored.upper()]
        with np.errstate(all="ignore"):  # blocks of nearly nothing become zeros
            data = gguf.quants.quantize(weight.numpy(), number)
        writer.add_tensor(name, data, raw_dtype=number)


def _stored_as(name: str, weight: Tensor, kind: GgufType, readout: str) -> GgufType:
    if weight.dim() == 1:
        return "f32"
    # Whatever is wrong in the table that logits are read from decides between tokens at once; and llama.cpp rounds
    # what a quantized matrix is multiplied by, too, of which what the gates let through spreads most (docs/log.md).
    finer = name == readout or (kind == "q8_0" and ".ffn_down." in name)
    return _FINER.get(kind, kind) if finer else kind


def _add_model(writer: Any, gguf: Any, config: ModelConfig, kind: GgufType) -> None:
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(_FILE_TYPES[kind])
    if kind.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "llama3":  # the latter lies in a tensor of its own
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_seq_len)


def _readable_tokenizer(tokenizer: Tokenizer, file: Path) -> dict[str, Any]:
    """The tokenizer's definition if llama.cpp encodes as it does; UserError otherwise."""
    spec: dict[str, Any] = json.loads(tokenizer.to_json())
    model = spec["model"]
    if tokenizer.kind != "bpe" or model["type"] != "BPE" or not model["merges"]:
        raise UserError(
            f"{file}: llama.cpp has no tokenizer of kind {tokenizer.kind!r}: train with --tokenizer.kind bpe, "
            "or use `llamita export hf`"
        )
    ours = json.loads(Tokenizer.train(["a b"], vocab_size=300).to_json())
    theirs = _rules(spec)
    for name, wanted in _rules(ours).items():
        if (theirs[name] or None) != (wanted or None):
            raise UserError(
                f"{file}: its {name} is {reprlib.repr(theirs[name])}, which isn't Llama 3's, the only one that is "
                "exported; llama.cpp's own convert_hf_to_gguf.py may know it, from what `llamita export hf` writes"
            )
    return spec


def _rules(spec: dict[str, Any]) -> dict[str, Any]:
    """How a text is split and pieces are merged: all of a definition but tokens, merges and what is put around."""
    merging = {f"model.{name}": rule for name, rule in spec["model"].items() if name not in ("vocab", "merges")}
    return {name: spec[name] for name in ("normalizer", "pre_tokenizer")} | merging


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, spec: dict[str, Any], config: ModelConfig) -> None:
    """Tokens in the order of their ids, with what each is; merges; where texts begin and end."""
    size = tokenizer.get_vocab_size()
    named = [tokenizer.id_to_token(number) for number in range(size)]
    added = {token["id"]: _CONTROL if token["special"] else _USER_DEFINED for token in spec["added_tokens"]}
    tokens = [token if token is not None else f"[unused{number}]" for number, token in enumerate(named)]
    kinds = [added.get(at, _UNUSED if named[at] is None else _NORMAL) for at in range(size)]
    beyond = range(size, config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*tokens, *(f"[unused{number}]" for number in beyond)])
    writer.add_token_types([*kinds, *(_UNUSED for _ in beyond)])
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    spoken = config.vocab_size - config.unpredicted_rows
    if end is None or end >= spoken:
        end = begin  # what the model says where a text is over
    if begin is not None:
        writer.add_bos_token_id(begin)
    writer.add_add_bos_token(tokenizer.adds_bos)
    if end is not None:
        writer.add_eos_token_id(end)
        writer.add_pad_token_id(end)
    writer.add_add_eos_token(False)
    if spoken < config.vocab_size:  # rows without a logit
        writer.add_array("tokenizer.ggml.suppress_tokens", list(range(spoken, config.vocab_size)))
    if isinstance(template := tokenizer.settings.get("chat_template"), str):
        writer.add_chat_template(template)
