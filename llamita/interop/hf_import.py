"""A Hugging Face folder as a run: config, weights and tokenizer, or the field that has no counterpart here."""

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llamita.config import DataConfig, ModelConfig, RopeScaling, RunConfig, TokenizerConfig, TrainingConfig
from llamita.errors import UsageError, UserError
from llamita.files import read_text, whole_folder
from llamita.interop.card import IMPORTED
from llamita.interop.foreign_tokenizers import tokenizer_file_of, tokenizer_of
from llamita.interop.hf_generation import GENERATION, note_ends, silent_rows, token_ids
from llamita.interop.hf_names import hf_name
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.folder import Run
from llamita.runs.saving import save_checkpoint
from llamita.runs.start import note_start
from llamita.training.hardware import choose_hardware

_JSON_BYTES = 1 << 26
_HEADER_BYTES = 1 << 28
_LARGEST = 1 << 40
_KINDS = {"llama": False, "mistral": False, "qwen3": True}  # whether queries and keys are normalised
# What transformers takes where config.json says nothing, if that isn't what the code below takes.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
}
_DTYPES = ("F32", "F16", "BF16")
_IGNORED = ("rotary_emb.inv_freq",)  # of old files: follows from the config
# What a value must be to mean what it means here; a field that isn't there has it.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", None),
    "quantization_config": (None,),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1, 1.0, None),
}
_SUPPORTED = "llamita reads Llama 1 to 3.2, TinyLlama, SmolLM, Mistral without a window, and dense Qwen3"


def import_hf(folder: Path, target: Path) -> Run:
    """A new run with the model and tokenizer of a folder that transformers wrote, its checkpoint at step 0.

    UserError for a folder that isn't whole, isn't safetensors, or holds a model that llamita can't express: the
    message names the file and the field, and nothing is left of the run.
    """
    if os.path.lexists(target) and (not target.is_dir() or next(target.iterdir(), None)):
        raise UsageError(f"{target}: is there already; give a folder that isn't")
    config_file = folder / "config.json"
    given = _read_json(config_file)
    model_config = model_config_of(given, config_file)
    tokenizer = tokenizer_of(folder, model_config.vocab_size)
    ends, suppressed = _generation(folder, given, model_config.vocab_size)
    note_ends(tokenizer, ends)
    weights = read_weights(folder, model_config)
    hardware = choose_hardware("auto", "auto")
    silent = silent_rows(tokenizer, suppressed, model_config.vocab_size)  # which get no logit, and so never move
    fields = {name: getattr(model_config, name) for name in ModelConfig.__dataclass_fields__}
    std = float(weights["embeddings.weight"].float().std())
    model = ModelConfig(**{**fields, "unpredicted_rows": silent, "embedding_std": std if std > 0 else 1.0})
    config = RunConfig(
        model=model,
        tokenizer=TokenizerConfig(vocab_size=tokenizer.get_vocab_size(), file=str(tokenizer_file_of(folder))),
        data=DataConfig(sources=(f"{IMPORTED}{folder.name}",)),
        training=TrainingConfig(
            steps=0, device=hardware.device, precision=hardware.precision, threads=hardware.threads, attention="torch"
        ),
    )
    target = target.absolute()
    try:
        with whole_folder(target) as aside:
            run = Run.create(aside)
            tokenizer.save(run.tokenizer_file)
            run.write_environment()
            meta = {"step": 0, "tokens": 0, "from": str(folder)}
            note_start(aside, str(folder))
            save_checkpoint(run.checkpoint_folder, weights, {"rng.cpu": torch.get_rng_state()}, meta)
            run.write_config(config)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{target}: can't be written ({reason}); make room there, and try again") from error
    return Run(target)


def _generation(folder: Path, given: Mapping[str, Any], vocab_size: int) -> tuple[list[int], list[int]]:
    """The ids that end a text, from where transformers takes them, and those that are never said."""
    file = folder / GENERATION
    told = _read_json(file) if os.path.lexists(file) else {}
    ends = token_ids(told, "eos_token_id", file, vocab_size)
    ends = ends or token_ids(given, "eos_token_id", folder / "config.json", vocab_size)
    return ends, token_ids(told, "suppress_tokens", file, vocab_size)


def model_config_of(given: Mapping[str, Any], file: Path) -> ModelConfig:
    """The model that a config.json describes; UserError names the field that has no counterpart here."""
    kind = given.get("model_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"{file}: model_type is {kind!r}; {_SUPPORTED}")
    given = {**_DEFAULTS[kind], **given}
    for name, allowed in _MUST_BE.items():
        if given.get(name) not in allowed:
            raise UserError(f"{file}: {name} is {given[name]!r}, which llamita can't express; {_SUPPORTED}")
    window = given.get("sliding_window")
    if window is not None and (kind == "mistral" or given.get("use_sliding_window")):
        raise UserError(f"{file}: sliding_window is {window!r}, and every position sees all before it here")
    heads = _number(given, "num_attention_heads", file)
    width, positions = _number(given, "hidden_size", file), _number(given, "max_position_embeddings", file, 2048)
    theta, scaling = _rope(given, positions, file)
    try:
        return ModelConfig(
            vocab_size=_number(given, "vocab_size", file),
            n_embd=width,
            n_layers=_number(given, "num_hidden_layers", file),
            n_heads=heads,
            n_kv_heads=_number(given, "num_key_value_heads", file, heads),
            head_dim=_number(given, "head_dim", file, width // max(heads, 1)),
            ffn_dim=_number(given, "intermediate_size", file),
            max_seq_len=positions,
            rope_theta=theta,
            rope_scaling=scaling,
            qk_norm=_KINDS[kind],
            norm_eps=_real(given, "rms_norm_eps", file, 1e-6),
            tie_embeddings=_flag(given, "tie_word_embeddings", file),
            embedding_scale=1.0,
        )
    except UsageError as error:
        raise UserError(f"{file}: {error}") from error


def _rope(given: Mapping[str, Any], positions: int, file: Path) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from where transformers 4 or 5 puts them."""
    new, old = given.get("rope_parameters") or {}, given.get("rope_scaling") or {}
    if not isinstance(new, dict) or not isinstance(old, dict):
        raise UserError(f"{file}: rope_parameters and rope_scaling must be objects")
    source, told = ("rope_scaling", old) if old else ("rope_parameters", new)
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            raise UserError(
                f"{file}: rope_scaling.{name} is {old[name]!r}, rope_parameters.{name} {new[name]!r}; keep one of them"
            )
    places = (("rope_scaling.", old), ("rope_parameters.", new), ("", given))
    place, holder = next((one for one in places if "rope_theta" in one[1]), places[-1])
    theta = _real(holder, "rope_theta", file, 1e4)
    if given.get("rope_theta") not in (None, theta):
        raise UserError(
            f"{file}: rope_theta is {reprlib.repr(given['rope_theta'])}, {place}rope_theta {theta}; keep one of them"
        )
    kind = told.get("rope_type", told.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3", "yarn"):
        raise UserError(f"{file}: {source}.rope_type is {kind!r}; llamita has linear, llama3 and yarn")
    known = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor"}
    known |= {"high_freq_factor", "beta_fast", "beta_slow"}
    if extra := sorted(name for name, value in told.items() if name not in known and value is not None):
        raise UserError(f"{file}: {source}.{extra[0]} is {told[extra[0]]!r}, which llamita can't express")
    factor = _real(told, "factor", file)
    names = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
    fields: dict[str, Any] = {name: _real(told, name, file) for name in names if name in told}
    # Where it isn't said, transformers takes the positions.
    before = _number({**given, **told}, "original_max_position_embeddings", file, positions)
    try:
        return theta, RopeScaling(kind=kind, factor=factor, original_max_seq_len=before, **fields)
    except UsageError as error:
        raise UserError(f"{file}: {source}: {error}") from error


def read_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Weights under our names in fp32; UserError for one that is missing, unknown or of another shape."""
    with torch.device("meta"):
        wanted = {name: tuple(weight.shape) for name, weight in LLaMaTransformer(config).state_dict().items()}
    ours = {hf_name(name): name for name in wanted}
    found: dict[str, Tensor] = {}
    head: tuple[Path, Tensor] | None = None
    for file, name, weight in _tensors(folder):
        if name == "lm_head.weight" and config.tie_embeddings:
            head = file, weight
            continue
        if name not in ours:
            raise UserError(f"{file}: {name} is no weight of this model; {_SUPPORTED}")
        if tuple(weight.shape) != wanted[ours[name]]:
            raise UserError(f"{file}: {name} is {tuple(weight.shape)}; config.json wants {wanted[ours[name]]}")
        if ours[name] in found:
            raise UserError(f"{file}: {name} is in another file of {folder}, too; keep one")
        if not weight.isfinite().all():
            raise UserError(
                f"{file}: {name} has values that aren't finite; copy it again, or use an earlier checkpoint"
            )
        found[ours[name]] = weight.float()
    if missing := [hf_name(name) for name in wanted if name not in found]:
        raise UserError(f"{folder}: {missing[0]} is missing, and {len(missing) - 1} more; copy all files of the model")
    if head is not None:
        _check_copy(*head, found["embeddings.weight"])
    return found


def _check_copy(file: Path, head: Tensor, table: Tensor) -> None:
    """A tied model may store its table twice, if it is one."""
    if not torch.equal(head.float(), table):
        raise UserError(
            f"{file}: lm_head.weight differs from the table, though tie_word_embeddings is on; set it to false"
        )


def _tensors(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """File, name and values of each tensor."""
    files = _weight_files(folder)
    for file in files:
        try:
            with file.open("rb") as raw:
                size = int.from_bytes(raw.read(8), "little")
            if size > _HEADER_BYTES:
                raise SafetensorError(f"a header of {size:,} bytes")
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    if name.endswith(_IGNORED):
                        continue
                    if (kind := tensors.get_slice(name).get_dtype()) not in _DTYPES:
                        raise UserError(
                            f"{file}: {name} is {kind}; llamita reads {', '.join(_DTYPES)}: write it as float32 or "
                            "bfloat16 with transformers"
                        )
                    yield file, name, tensors.get_tensor(name)
        except (OSError, MemoryError, SafetensorError) as error:
            raise UserError(f"{file}: can't be read ({error}); copy it again") from error


def _weight_files(folder: Path) -> list[Path]:
    one, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if one.is_file():
        return [one]
    if not index.is_file():
        if any(folder.glob("*.bin")):
            raise UserError(
                f"{folder}: has its weights as pickles, which can run anything; "
                "write them with save_pretrained of transformers, which makes safetensors"
            )
        raise UserError(f"{one}: isn't there, nor {index.name}")
    where = _read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise UserError(f"{index}: weight_map must name a file for each weight")
    names = sorted(set(where.values()))
    for name in names:
        if os.path.basename(name) != name or not os.path.isfile(folder / name):
            raise UserError(f"{index}: weight_map names {reprlib.repr(name)}, which is no file in {folder}")
    return [folder / name for name in names]


def _read_json(file: Path) -> dict[str, Any]:
    if os.path.exists(file) and not os.path.isfile(file):
        raise UserError(f"{file}: is no file; give a folder that transformers wrote")
    try:
        value = json.loads(read_text(file, _JSON_BYTES))
    except FileNotFoundError:
        raise UserError(f"{file}: isn't there; give a folder that transformers wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: must hold one object")
    return value


def _number(given: Mapping[str, Any], name: str, file: Path, default: int | None = None) -> int:
    value = given.get(name)
    value = default if value is None else value
    if type(value) is not int or not 1 <= value < _LARGEST:
        shown = reprlib.repr(value)
        raise UserError(f"{file}: {name} is {shown}; it must be a whole number from 1, and not beyond all models")
    return value


def _real(given: Mapping[str, Any], name: str, file: Path, default: float | None = None) -> float:
    value = given.get(name, default)
    if type(value) not in (int, float) or not 0 < value < 1e12:
        raise UserError(f"{file}: {name} is {value!r}; it must be a number greater than 0")
    return float(value)


def _flag(given: Mapping[str, Any], name: str, file: Path) -> bool:
    value = given.get(name, False)
    if type(value) is not bool:
        raise UserError(f"{file}: {name} is {value!r}; it must be true or false")
    return value
