"""A run as a folder that Hugging Face's libraries, vLLM and others load."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llamita import __version__
from llamita.errors import UserError
from llamita.files import sync_file, whole_folder, write_text
from llamita.interop.card import model_card
from llamita.interop.hf_generation import GENERATION, generation_config, special_ids
from llamita.interop.hf_names import hf_config, hf_weights
from llamita.runs.folder import Run
from llamita.text.specials import END_TOKENS
from llamita.text.tokenizer import Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DtypeName = Literal["fp32", "bf16", "fp16"]

_SHARD_BYTES = 5_000_000_000


def export_hf(
    run: Run, target: Path, *, checkpoint: str = "best", dtype: DtypeName = "fp32", license_name: str | None = None
) -> Path:
    """Write a checkpoint of a run as a new folder with config, weights, tokenizer, generation settings and model card.

    The folder appears whole or not at all. UserError if it is there already, if the model has no exact counterpart,
    if a weight is too large for fp16, or if the disk doesn't take it.
    """
    if os.path.lexists(target):
        raise UserError(f"{target}: is there already; give a folder that isn't")
    tokenizer, model = run.tokenizer(), run.model(checkpoint)
    config = {**hf_config(model.config, DTYPES[dtype]), **special_ids(tokenizer)}
    try:
        with whole_folder(target) as aside:
            _write_json(aside / "config.json", {**config, "llamita_version": __version__})
            _write_json(aside / GENERATION, generation_config(tokenizer, model.config))
            _write_tokenizer(aside, tokenizer, model.config.max_seq_len)
            _write_weights(aside, hf_weights(model, DTYPES[dtype]))
            write_text(aside / "README.md", model_card(run, checkpoint, license_name))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{target}: can't be written ({reason}); make room there, and try again") from error
    return target


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, max_seq_len: int) -> None:
    write_text(folder / "tokenizer.json", tokenizer.to_json())
    named = {
        name: None if number is None else tokenizer.id_to_token(number)
        for name, number in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("pad", tokenizer.eos_id))
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": token for name, token in named.items() if token is not None},
        "model_max_length": max_seq_len,
        "clean_up_tokenization_spaces": False,
        # Else transformers 4 makes token_type_ids, too, which model.generate refuses.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    # A special token's name in a text is text, as in training; but chat templates from elsewhere write such names.
    told = {name: value for name, value in tokenizer.settings.items() if name != END_TOKENS}
    _write_json(folder / "tokenizer_config.json", settings | (told or {"split_special_tokens": True}))


def _write_weights(folder: Path, weights: Iterator[tuple[str, Tensor]]) -> None:
    """One file, or several of at most 5 GB with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, weight in weights:
        if not weight.isfinite().all():
            raise UserError(f"{name}: isn't finite as {weight.dtype}; export with --dtype fp32 or bf16")
        if size + weight.nbytes > _SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = weight
        size, total = size + weight.nbytes, total + weight.nbytes
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{at:05}-of-{len(shards):05}.safetensors" for at in range(1, len(shards) + 1)]
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
        sync_file(folder / file)
        # Others may read it as they may read the files beside it.
        (folder / file).chmod((folder / "config.json").stat().st_mode)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
