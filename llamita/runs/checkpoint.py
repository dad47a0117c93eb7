"""Checkpoints: one folder a step of safetensors and JSON; no pickle anywhere. saving.py writes them.

Nothing read here is trusted: no name in a file becomes a path, and what a file says of its size is compared with the
config before memory is taken for it.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.files import read_text
from llamita.model.transformer import LLaMaTransformer

FORMAT = 1
WEIGHTS, STATE, META = "model.safetensors", "state.safetensors", "meta.json"

_STEP = re.compile(r"step_[0-9]{8,15}")
_MOST = 2**63
_META_BYTES = 1 << 20
_SHOWN = 200  # characters of what a stranger may have written
_UNSUMMED = "0" * 64
_STRANGERS = "config.toml and weights are of different models"
_HEADER_BYTES = 1 << 24  # the names and shapes of far more tensors than a model has
# A training state is a few numbers for each weight, whatever their types, and random number generators.
_STATE_RATIO, _STATE_ROOM = 8, 1 << 24
_FLOATS, _OTHERS = ("F64", "F32", "F16", "BF16"), ("I64", "I32", "U8", "BOOL")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk; `meta` is its meta.json."""

    path: Path
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.meta["step"])

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return int(self.meta.get("tokens", 0))

    @property
    def val_loss(self) -> float | None:
        """Validation loss in nats a token at this step, if it was measured and is finite."""
        return _finite(self.meta.get("val_loss"))

    @property
    def bits_per_byte(self) -> float | None:
        """Validation bits per byte, where the tokenizer loses no text."""
        return _finite(self.meta.get("bits_per_byte"))


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints in a folder, oldest first; one whose meta.json isn't as saving writes it is none."""
    metas = ((path, _read_meta(path)) for path in (folder.glob("step_*") if os.path.isdir(folder) else ()))
    found = [Checkpoint(path, meta) for path, meta in metas if meta is not None]
    return sorted(found, key=lambda item: item.step)


def damaged_after(folder: Path, step: int) -> list[Path]:
    """Folders of later steps that hold weights, but no meta.json as saving writes it; oldest first."""
    named = [path.parent for path in folder.glob(f"step_*/{WEIGHTS}") if _STEP.fullmatch(path.parent.name)]
    # Read after that: a checkpoint that another process is just naming isn't damaged.
    whole = {item.path for item in checkpoints(folder)}
    later = [(int(path.name.removeprefix("step_")), path) for path in named if path not in whole]
    return [path for number, path in sorted(later) if number > step]


def load_model(checkpoint: Checkpoint, config: ModelConfig) -> LLaMaTransformer:
    """The model of a checkpoint on the CPU; UserError names a damaged file or a weight that doesn't fit."""
    model = _unfilled(checkpoint, config)
    try:
        model.to_empty(device="cpu")
        model.init_buffers()
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"{checkpoint.path / WEIGHTS}: too large for this machine's memory ({error})") from error
    load_weights(model, checkpoint)
    return model


def check_shape(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """UserError unless a checkpoint's weights are those of the config, by the header of their file alone."""
    _unfilled(checkpoint, config)


def load_weights(model: LLaMaTransformer, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model of the same shape."""
    _check_weights(checkpoint, model)
    model.load_state_dict(_load(checkpoint, WEIGHTS))


def load_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a checkpoint's training state."""
    path = checkpoint.path / STATE
    for name, (kind, _) in _header(checkpoint, STATE).items():
        if kind not in (*_FLOATS, *_OTHERS):
            raise UserError(f"{path}: {name} is of type {kind}, which no training state holds; {_remedy(checkpoint)}")
    size, weights = (os.path.getsize(file) if file.exists() else 0 for file in (path, checkpoint.path / WEIGHTS))
    if size > _STATE_RATIO * weights + _STATE_ROOM:
        raise UserError(f"{path}: {size:,} bytes, too many for {weights:,} of weights; {_remedy(checkpoint)}")
    return _load(checkpoint, STATE)


def _read_meta(path: Path) -> dict[str, Any] | None:
    """The meta.json of a checkpoint's folder if it is what saving writes there."""
    file = path / META
    try:
        if not _STEP.fullmatch(path.name) or not file.is_file():
            return None
        text = read_text(file, _META_BYTES)
        meta = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) and _fits(meta, path.name) and _is_own(text, meta["sha256"]) else None


def _fits(meta: dict[str, Any], name: str) -> bool:
    step, sums = meta.get("step"), meta.get("sha256")
    return (
        _is_count(step)
        and name == f"step_{step:08d}"
        and _is_count(meta.get("format"))
        and _is_count(meta.get("tokens", 0))
        and all(_is_figure(meta.get(key)) for key in ("val_loss", "bits_per_byte"))
        and isinstance(sums, dict)
        and all(isinstance(sums.get(file), str) for file in (WEIGHTS, STATE))
    )


def meta_text(meta: dict[str, Any], sums: dict[str, str]) -> str:
    """What meta.json is to hold: the checksums of the other files, and its own, for which it is taken as zeros."""
    text = json.dumps({**meta, "sha256": {**sums, META: _UNSUMMED}}, indent=2) + "\n"
    return text.replace(_UNSUMMED, hashlib.sha256(text.encode()).hexdigest())


def _is_own(text: str, sums: dict[str, str]) -> bool:
    """Whether the text of a meta.json is what its own checksum says; early ones have none."""
    if META not in sums:
        return sums.keys() == {WEIGHTS, STATE}
    own = sums[META]
    return isinstance(own, str) and hashlib.sha256(text.replace(own, _UNSUMMED).encode()).hexdigest() == own


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_figure(value: Any) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < _MOST)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _unfilled(checkpoint: Checkpoint, config: ModelConfig) -> LLaMaTransformer:
    """A model that has no memory yet, for which the weights are known to fit."""
    number = len(_header(checkpoint, WEIGHTS))
    if config.n_layers > number:
        path = checkpoint.path / WEIGHTS
        raise UserError(f"{path}: {number} tensors, too few for model.n_layers ({config.n_layers}); {_STRANGERS}")
    with torch.device("meta"):
        model = LLaMaTransformer(config)
    _check_weights(checkpoint, model)
    return model


def _check_weights(checkpoint: Checkpoint, model: LLaMaTransformer) -> None:
    """UserError for weights of another name, shape or type than the model's; nothing but their header is read."""
    path, there = checkpoint.path / WEIGHTS, _header(checkpoint, WEIGHTS)
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for name in wanted | there:
        kind, shape = there.get(name, (None, None))
        if shape != wanted.get(name):
            raise UserError(f"{path}: {name!r} is {shape}, the config wants {wanted.get(name)}: {_STRANGERS}")
        if kind not in _FLOATS:
            raise UserError(f"{path}: {name!r} is of type {kind}; weights are {', '.join(_FLOATS)}")


def _header(checkpoint: Checkpoint, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in a file, whose size is as they say."""
    path = checkpoint.path / name
    try:
        with _opened(path) as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _HEADER_BYTES:
            raise SafetensorError(f"a header of {size:,} bytes")
        with safe_open(path, framework="pt") as tensors:
            found = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            return {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in found.items()}
    except (OSError, MemoryError, SafetensorError) as error:
        raise UserError(f"{path}: can't be read ({error}); {_remedy(checkpoint)}") from error


def _load(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    path, version = checkpoint.path / name, checkpoint.meta["format"]
    if version != FORMAT:
        raise UserError(f"{path}: of format {version}, this llamita reads {FORMAT}: use the one that wrote it")
    try:
        if _sha256(path) != checkpoint.meta["sha256"][name]:
            raise UserError(f"{path}: damaged (its checksum isn't the one in {META}); {_remedy(checkpoint)}")
        return load_file(path)
    except (OSError, MemoryError, SafetensorError) as error:
        raise UserError(f"{path}: can't be read ({error}); {_remedy(checkpoint)}") from error


def _remedy(checkpoint: Checkpoint) -> str:
    """What to use instead of a damaged checkpoint: the one before it that is whole, else one after it."""
    if checkpoint.step == 0:
        return f"the run began with these weights: copy them again from {ascii(checkpoint.meta.get('from'))[:_SHOWN]}"
    for item in _others(checkpoint):
        if _is_whole(item):
            return f"use --checkpoint {item.step}, which is whole"
    return "no other is whole; --checkpoint initial is the model before training"


def _others(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    found = checkpoints(checkpoint.path.parent)
    yield from reversed([item for item in found if item.step < checkpoint.step])
    yield from (item for item in found if item.step > checkpoint.step)


def _is_whole(checkpoint: Checkpoint) -> bool:
    sums = checkpoint.meta["sha256"]
    try:
        for name in (WEIGHTS, STATE):
            # Looks at the header, and whether the file is as long as that says, before all of it is read.
            _opened(checkpoint.path / name).close()
            with safe_open(checkpoint.path / name, framework="pt"):
                pass
        return all(_sha256(checkpoint.path / name) == sums[name] for name in (WEIGHTS, STATE))
    except (OSError, MemoryError, SafetensorError):
        return False


def _opened(path: Path) -> BufferedReader:
    """A file to read; OSError for a pipe, which may never have anything to read."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file")
    return path.open("rb")


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
