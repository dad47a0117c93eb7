"""Checkpoints: one folder a step, written aside and made real by one rename; no pickle anywhere."""

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer

_FORMAT = 1
_WEIGHTS, _STATE, _META = "model.safetensors", "state.safetensors", "meta.json"


class UnsavedError(UserError):
    """A checkpoint couldn't be written; those before it are as they were."""


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
    def val_loss(self) -> float | None:
        """Validation loss in nats a token at this step, if it was measured and is finite."""
        loss = self.meta.get("val_loss")
        return loss if loss is not None and math.isfinite(loss) else None

    @property
    def bits_per_byte(self) -> float | None:
        """Validation bits per byte, where the tokenizer loses no text."""
        return self.meta.get("bits_per_byte")


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints in a folder, oldest first."""
    found = []
    for path in sorted(folder.glob("step_*")):
        try:
            found.append(Checkpoint(path, json.loads((path / _META).read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue
    return found


def save_checkpoint(
    folder: Path, weights: dict[str, Tensor], state: dict[str, Tensor], meta: dict[str, Any]
) -> Checkpoint:
    """Write folder/step_XXXXXXXX with the weights, the tensors of the training state and meta.json.

    UnsavedError if it can't be written (a full disk, say): then nothing of it is left. The folder must have one
    writer (`writing`): what a killed one left half-written is removed.
    """
    final = folder / f"step_{meta['step']:08d}"
    aside = folder / f".{final.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step_*"):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()
        return _written(aside, final, weights, state, meta)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UnsavedError(f"{final}: can't be written ({error}); make room, or let it be written") from error


def _written(
    aside: Path, final: Path, weights: dict[str, Tensor], state: dict[str, Tensor], meta: dict[str, Any]
) -> Checkpoint:
    sums = {}
    for name, tensors in ((_WEIGHTS, weights), (_STATE, state)):
        plain = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
        save_file(plain, aside / name)
        sums[name] = _sha256(aside / name)
    meta = {"format": _FORMAT, **meta, "sha256": sums}
    (aside / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    for path in (aside / _WEIGHTS, aside / _STATE, aside / _META, aside):
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    _sync(final.parent)
    return Checkpoint(final, meta)


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int | None = None) -> None:
    """Remove all but the newest `keep_last` checkpoints, the best one and those at multiples of `keep_every` steps."""
    found = checkpoints(folder)
    rated = [item for item in found if item.val_loss is not None]
    best = min(rated, key=lambda item: item.val_loss or 0.0, default=None)
    for item in found[:-keep_last]:
        milestone = keep_every is not None and item.step % keep_every == 0
        if not milestone and (best is None or item.path != best.path):
            shutil.rmtree(item.path)


def load_model(checkpoint: Checkpoint, config: ModelConfig) -> LLaMaTransformer:
    """The model of a checkpoint on the CPU; UserError names a damaged file or a weight that doesn't fit."""
    with torch.device("meta"):
        model = LLaMaTransformer(config)
    model.to_empty(device="cpu")
    model.init_buffers()
    load_weights(model, checkpoint)
    return model


def load_weights(model: LLaMaTransformer, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model of the same shape."""
    weights = _load(checkpoint, _WEIGHTS)
    wanted = model.state_dict()
    for name in wanted.keys() | weights.keys():
        here, there = wanted.get(name), weights.get(name)
        if here is None or there is None or here.shape != there.shape:
            shape = None if there is None else tuple(there.shape)
            expected = None if here is None else tuple(here.shape)
            raise UserError(f"{checkpoint.path / _WEIGHTS}: {name} is {shape}, the config wants {expected}")
    model.load_state_dict(weights)


def load_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a checkpoint's training state."""
    return _load(checkpoint, _STATE)


def _load(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    path = checkpoint.path / name
    remedy = f"delete {checkpoint.path} to use the checkpoint before it"
    try:
        if _sha256(path) != checkpoint.meta["sha256"][name]:
            raise UserError(f"{path}: damaged (its checksum isn't the one in {_META}); {remedy}")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: can't be read ({error}); {remedy}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
