"""Checkpoints on their way to the disk: written aside, made real by one rename, while training goes on."""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamita.errors import UserError
from llamita.files import File, make_folder, sync_folder
from llamita.runs.checkpoint import FORMAT, META, STATE, WEIGHTS, Checkpoint, checkpoints, meta_text

# In the order in which the safetensors library lays tensors out.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class UnsavedError(UserError):
    """A checkpoint couldn't be written; those before it are as they were."""


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
        make_folder(folder)
        for left in folder.glob(".step_*"):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()
        sums = {name: write_tensors(aside / name, part) for name, part in ((WEIGHTS, weights), (STATE, state))}
        text = meta_text({"format": FORMAT, **meta}, sums)
        with File(aside / META, "x") as file:
            file.write(text.encode())
            file.sync()
        sync_folder(aside)
        _name(aside, final)
        return Checkpoint(final, json.loads(text))
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UnsavedError(f"{final}: can't be written ({error}); make room, or let it be written") from error


def _name(aside: Path, final: Path) -> None:
    """Give a folder its name, in the place of what bears it."""
    replaced = final.with_name(f".{final.name}.replaced")
    # A folder can't be renamed over another one.
    if final.exists():
        final.rename(replaced)
    try:
        aside.rename(final)
    except OSError:
        if replaced.exists():
            replaced.rename(final)
        raise
    sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write a new safetensors file, synced; gives the SHA-256 of its bytes, for which it isn't read again.

    The same bytes as the safetensors library writes: https://github.com/huggingface/safetensors, "Format".
    """
    kinds = list(_DTYPES)
    order = sorted(tensors, key=lambda name: (kinds.index(tensors[name].dtype), name))
    plain = {name: tensors[name].detach().to("cpu").contiguous() for name in order}
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in plain.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with File(path, "x") as file:
        parts: list[bytes | memoryview] = [len(head).to_bytes(8, "little") + head, *map(_bytes, plain.values())]
        for part in parts:
            file.write(part)
            digest.update(part)
        file.sync()
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def prune_checkpoints(folder: Path, keep_last: int, keep_every: int | None = None) -> None:
    """Remove all but the newest `keep_last` checkpoints, the best one and those at multiples of `keep_every` steps.

    Those saved while the guard was skipping steps don't count, but for the newest of all. Step 0 is what began it.
    """
    found = checkpoints(folder)
    newest = [item.path for item in [item for item in found if not item.meta.get("streak")][-keep_last:] + found[-1:]]
    rated = [item for item in found if item.val_loss is not None]
    best = min(rated, key=lambda item: item.val_loss or 0.0, default=None)
    for item in found:
        milestone = item.step == 0 or (keep_every is not None and item.step % keep_every == 0)
        if item.path not in newest and not milestone and (best is None or item.path != best.path):
            _remove(item.path)


def _remove(path: Path) -> None:
    # First its name, so that no half of it ever passes for a whole one.
    nameless = path.with_name(f".{path.name}.removed")
    path.rename(nameless)
    sync_folder(path.parent)
    shutil.rmtree(nameless)


class Saver:
    """Saves one checkpoint at a time in a thread of its own, from a copy in main memory.

    Use it from one thread. What is being written when the process ends is lost; what was there before stays.
    """

    def __init__(self, folder: Path, keep_last: int, keep_every: int | None = None) -> None:
        self._folder = folder
        self._keep = keep_last, keep_every
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._outcome: Checkpoint | UnsavedError | None = None

    def begin(self, weights: dict[str, Tensor], state: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Copy everything, then save it while the caller goes on; there must be no outcome left to be asked for."""
        assert self._thread is None and self._outcome is None
        try:
            copies = (self._copied("weights", weights), self._copied("state", state))
            thread = threading.Thread(target=self._save, args=(*copies, meta), daemon=True)
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._outcome = UnsavedError(f"{self._folder}: no memory to save from ({error}); make room")
        else:
            self._thread = thread

    def prune(self) -> None:
        """Remove what needn't be kept; what can't be removed now is left for the next time."""
        with contextlib.suppress(OSError):
            prune_checkpoints(self._folder, *self._keep)

    def outcome(self, wait: bool = False) -> Checkpoint | UnsavedError | None:
        """What came of the last save, once; None as long as nothing did."""
        if self._thread is not None:
            if self._thread.is_alive() and not wait:
                return None
            self._thread.join()
            self._thread = None
        outcome, self._outcome = self._outcome, None
        return outcome

    def _copied(self, part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies in memory that is kept for the next save; from a GPU they are made at the speed of the bus."""
        on_gpu = False
        for name, tensor in tensors.items():
            key = f"{part}.{name}"
            copy = self._copies.get(key)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copy.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
            on_gpu |= tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        return {name: self._copies[f"{part}.{name}"] for name in tensors}

    def _save(self, weights: dict[str, Tensor], state: dict[str, Tensor], meta: dict[str, Any]) -> None:
        try:
            outcome: Checkpoint | UnsavedError = save_checkpoint(self._folder, weights, state, meta)
            self.prune()
        except UnsavedError as error:
            outcome = error
        except Exception as error:  # a thread has nobody to raise it to
            outcome = UnsavedError(f"{self._folder}: can't be written ({error!r})")
        self._outcome = outcome
