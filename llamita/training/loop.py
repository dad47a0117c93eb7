"""The training loop: batches in, better weights out, an event for everything worth telling."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llamita.config import RunConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batches
from llamita.training.evaluate import DeviceBatch, batch_loss, to_device
from llamita.training.hardware import autocast
from llamita.training.schedule import lr_multiplier
from llamita.training.state import TrainState

LossFunction = Callable[[LLaMaTransformer, DeviceBatch], Float[Tensor, ""]]


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Means over the steps since the last report; `step` counts from 1, `loss` is in nats a token."""

    step: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float


def training_batches(
    corpus_batches: Batches, state: TrainState, device: torch.device
) -> Iterator[tuple[DeviceBatch, int, TrainState]]:
    """Batches on the device from the state on, each with its number of targets and the state after it."""
    for batch, position in corpus_batches.iterate(state.position):
        state = TrainState(state.step, state.tokens + batch.tokens, position)
        yield to_device(batch, device), batch.tokens, state


def train_step(
    model: LLaMaTransformer,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[tuple[DeviceBatch, int]],
    config: RunConfig,
    loss_function: LossFunction = batch_loss,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """One optimizer step on micro-batches weighted by their tokens; gives the loss and the gradient norm."""
    tokens = max(sum(count for _, count in micro_batches), 1)
    device = model.embeddings.weight.device
    total = torch.zeros((), device=device)
    for batch, _ in micro_batches:
        with autocast(device.type, config.training.precision):
            loss = loss_function(model, batch) / tokens
        loss.backward()
        total += loss.detach()
    clip = config.optimizer.clip
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf") if clip is None else clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def train(
    model: LLaMaTransformer,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: RunConfig,
    state: TrainState = TrainState(),
    loss_function: LossFunction = batch_loss,
) -> Iterator[tuple[TrainState, StepMetrics | None]]:
    """Train from `state` to config.training.steps; gives the state after each step, metrics every log_every.

    `batches` yields micro-batches. Leaving the iterator between two steps is always safe.
    """
    model.train()
    model.embeddings.grad_scale = config.optimizer.input_grad_scale
    device = model.embeddings.weight.device
    source = training_batches(batches, state, device)
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    since, tokens_then = time.perf_counter(), state.tokens
    for step in range(state.step, config.training.steps):
        lr = config.optimizer.lr * lr_multiplier(step, config.training.steps, config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
        taken = [next(source) for _ in range(config.training.accumulation)]
        loss, norm = train_step(model, optimizer, [item[:2] for item in taken], config, loss_function)
        losses.append(loss)
        norms.append(norm)
        state = TrainState(step + 1, taken[-1][2].tokens, taken[-1][2].position)
        metrics = None
        if state.step % config.training.log_every == 0 or state.step == config.training.steps:
            # Reading the figures waits for the device, so it's done for many steps at once.
            mean_loss, mean_norm = torch.stack(losses).mean().item(), torch.stack(norms).mean().item()
            now = time.perf_counter()
            speed = (state.tokens - tokens_then) / (now - since)
            metrics = StepMetrics(state.step, state.tokens, mean_loss, lr, mean_norm, speed)
            losses, norms, since, tokens_then = [], [], now, state.tokens
        yield state, metrics
        if metrics is not None:
            since = time.perf_counter()
