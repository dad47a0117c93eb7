"""Optimizer steps; a GPU records one and replays it, so that it needn't wait for Python to start kernel by kernel."""

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llamita.config import RunConfig
from llamita.model.linear import Linear
from llamita.model.transformer import LLaMaTransformer
from llamita.training.evaluate import DeviceBatch, LossFunction, batch_loss
from llamita.training.guard import Guard
from llamita.training.hardware import autocast
from llamita.training.plan import training_memory
from llamita.training.recording import can_capture, captured

_log = logging.getLogger(__name__)

_Shapes = tuple[torch.Size | None, ...]

WARMUP_STEPS = 3  # before one is recorded: what is compiled or allocated at first is no part of it
_MOST_RECORDINGS = 8  # of so many shapes of batches
_MOST_PADDING = 4
_ROOM = 0.5  # of the memory; a recording keeps what its step needs, and larger models don't wait for Python


def make_ready(model: LLaMaTransformer, config: RunConfig) -> None:
    """Set what training asks of a model beside its weights."""
    model.train()
    model.embeddings.grad_scale = config.optimizer.input_grad_scale
    model.recompute_layers = config.training.recompute_layers
    for module in model.decoder_blocks.modules():
        if isinstance(module, Linear):
            module.fp8 = config.training.precision == "fp8"


def train_step(
    model: LLaMaTransformer,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[DeviceBatch],
    tokens: Float[Tensor, ""],
    config: RunConfig,
    guard: Guard,
    loss_function: LossFunction = batch_loss,
) -> Float[Tensor, "3"]:
    """One optimizer step on micro-batches of so many targets; gives loss, gradient norm and the verdict.

    What the guard rejects leaves weights and moments as they are: fused optimizers obey `found_inf`.
    """
    device = model.embeddings.weight.device
    total = torch.zeros((), device=device)
    for batch in micro_batches:
        with autocast(device.type, config.training.precision):
            loss = loss_function(model, batch) / tokens
        loss.backward()
        total += loss.detach()
    clip = config.optimizer.clip
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf") if clip is None else clip)
    verdict = guard.judge(total, norm)
    optimizer.found_inf = (verdict > 0).float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack([total, norm, verdict])


class Stepper:
    """Optimizer steps of a model, as `train_step` takes them.

    On a GPU, steps on batches of a shape that has come before are a CUDA graph. It reads weights, moments and the guard
    where they were when it was recorded: who replaces one of these tensors needs another Stepper.
    """

    def __init__(
        self,
        model: LLaMaTransformer,
        optimizer: torch.optim.Optimizer,
        config: RunConfig,
        guard: Guard,
        loss_function: LossFunction = batch_loss,
    ) -> None:
        self._model, self._optimizer, self._config, self._guard = model, optimizer, config, guard
        self._loss_function = loss_function
        self._device = model.embeddings.weight.device
        self._most_starts = 0
        self._seen: Counter[_Shapes] = Counter()
        self._recordings: dict[_Shapes, _Recording] = {}
        self._records = _can_record(self._device, model, optimizer, config, loss_function)
        self._pool = torch.cuda.graph_pool_handle() if self._records else None
        if self._records:
            for group in optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self._device)

    def __call__(self, micro_batches: Sequence[tuple[DeviceBatch, int]], lr: float) -> Float[Tensor, "3"]:
        """One step on micro-batches with their numbers of targets, at a rate of which each group takes its share."""
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * group["lr_ratio"])
            else:
                group["lr"] = lr * group["lr_ratio"]
        batches = self._with_as_many_starts([batch for batch, _ in micro_batches])
        tokens = torch.full((), float(max(sum(count for _, count in micro_batches), 1)), device=self._device)
        recording = self._recording_for(batches, tokens) if self._records else None
        return self._step(batches, tokens) if recording is None else recording.replay(batches, tokens)

    def _step(self, batches: Sequence[DeviceBatch], tokens: Tensor) -> Tensor:
        return train_step(self._model, self._optimizer, batches, tokens, self._config, self._guard, self._loss_function)

    def _with_as_many_starts(self, batches: Sequence[DeviceBatch]) -> list[DeviceBatch]:
        """The batches with as many starts of documents as the most so far had: another number is another graph.

        Not in a deterministic run, where attention adds up in an order that depends on it, and a resumed run wouldn't
        have seen the same ones.
        """
        if self._config.training.deterministic:
            return list(batches)
        self._most_starts = max([self._most_starts, *(len(one.starts) for one in batches if one.starts is not None)])
        return [_padded(one, self._most_starts) for one in batches]

    def _recording_for(self, batches: Sequence[DeviceBatch], tokens: Tensor) -> "_Recording | None":
        shapes = tuple(None if one is None else one.shape for batch in batches for one in _tensors(batch))
        self._seen[shapes] += 1
        due = self._seen[shapes] > WARMUP_STEPS and len(self._recordings) < _MOST_RECORDINGS
        if due and shapes not in self._recordings:
            try:
                _check_free_memory(self._config, self._device)
                with _capturable(self._optimizer):
                    self._recordings[shapes] = _Recording(self._step, batches, tokens, self._pool)
            except RuntimeError as error:
                # What the work raised, rather than what ending its recording did then.
                first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
                _log.warning("training goes on without a CUDA graph: %s", str(first).partition("\n")[0])
                self._optimizer.zero_grad(set_to_none=True)
                self._recordings.clear()  # and the memory that they keep, for plain steps need it
                self._records = False
        return self._recordings.get(shapes)


class _Recording:
    """A step on batches of certain shapes, recorded; `replay` takes it on others.

    Those of one pool may share memory, since nothing in it is read once the next one is replayed.
    """

    def __init__(
        self,
        step: Callable[[Sequence[DeviceBatch], Tensor], Tensor],
        batches: Sequence[DeviceBatch],
        tokens: Tensor,
        pool: Any,
    ) -> None:
        self._batches, self._tokens = [copy.deepcopy(batch) for batch in batches], tokens
        self._again, self._figures = captured(lambda: step(self._batches, self._tokens), pool)

    def replay(self, batches: Sequence[DeviceBatch], tokens: Tensor) -> Tensor:
        for mine, given in zip(self._batches, batches, strict=True):
            for here, there in zip(_tensors(mine), _tensors(given), strict=True):
                if here is not None and there is not None:
                    here.copy_(there)
        self._tokens.copy_(tokens)
        self._again()
        return self._figures.clone()


@contextlib.contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Fused AdamW is, but wants to be told so, and would be surprised at steps that aren't captured."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


def _padded(batch: DeviceBatch, length: int) -> DeviceBatch:
    starts = batch.starts
    if starts is None or len(starts) == length:
        return batch
    length = min(length, _MOST_PADDING * len(starts))  # each is a document to the kernel, if an empty one
    return replace(batch, starts=F.pad(starts, (0, length - len(starts)), value=batch.inputs.numel()))


def _tensors(batch: DeviceBatch) -> tuple[Tensor | None, ...]:
    return batch.inputs, batch.targets, batch.documents, batch.starts


def _can_record(
    device: torch.device,
    model: LLaMaTransformer,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    loss_function: LossFunction,
) -> bool:
    if not can_capture(device):
        return False
    # What others do in Python, in hooks or a loss of their own, wouldn't be done again.
    known = getattr(loss_function, "_torchdynamo_orig_callable", loss_function) is batch_loss
    fused = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and all(
        group["fused"] for group in optimizer.param_groups
    )
    room = _ROOM * torch.cuda.get_device_properties(device).total_memory
    return known and fused and not _hooked(model, optimizer) and training_memory(config) < room


def _hooked(model: LLaMaTransformer, optimizer: torch.optim.Optimizer) -> bool:
    hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    for module in model.modules():
        hooks += [module._forward_hooks, module._forward_pre_hooks]
        hooks += [module._backward_hooks, module._backward_pre_hooks]
    for weight in model.parameters():
        hooks += [weight._backward_hooks, weight._post_accumulate_grad_hooks]
    return any(hooks)


def _check_free_memory(config: RunConfig, device: torch.device) -> None:
    """RuntimeError if others have left too little for a recording and the plain steps beside it."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free, wanted = torch.cuda.mem_get_info(device)[0] + kept, training_memory(config)
    if free < wanted:
        raise RuntimeError(f"{free / 2**30:.1f} GiB of the GPU's memory are free, {wanted / 2**30:.1f} wanted")
