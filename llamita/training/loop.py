"""The training loop: batches in, better weights out, an event for everything worth telling."""

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llamita.config import RunConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.text.batches import Batches, Position
from llamita.text.shards import Corpus
from llamita.training.evaluate import DeviceBatch, LossFunction, batch_loss, to_device
from llamita.training.guard import Guard, Skipped, reason
from llamita.training.optimizer import check_tie
from llamita.training.schedule import lr_multiplier
from llamita.training.state import TrainState
from llamita.training.stepping import Stepper, make_ready


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Means over the steps since the last report; `step` counts from 1, `loss` is in nats a token.

    Steps that the guard skipped are no part of the means, unless all of them were skipped; `streak` is how many
    were in a row up to this step.
    """

    step: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    skipped: tuple[Skipped, ...] = ()
    streak: int = 0

    def row(self) -> dict[str, Any]:
        """The figures as a line of metrics.jsonl, without those that JSON has no number for."""
        names = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second")
        figures = {name: value for name in names if math.isfinite(value := getattr(self, name))}
        return {**figures, "skipped": len(self.skipped)}


def batches_of(corpus: Corpus, config: RunConfig) -> Batches:
    """The batches that a run trains on."""
    return Batches(
        corpus,
        rows=config.training.micro_batch_size,
        seq_len=config.model.max_seq_len,
        seed=config.training.seed,
        packing=config.data.packing,
        mask_documents=config.data.mask_documents,
    )


def training_batches(
    corpus_batches: Batches, state: TrainState, device: torch.device
) -> Iterator[tuple[DeviceBatch, int, TrainState]]:
    """Batches on the device from the state on, each with its number of targets and the state after it."""
    for batch, position in corpus_batches.iterate(state.position):
        state = TrainState(state.step, state.tokens + batch.tokens, position)
        yield to_device(batch, device), batch.tokens, state


def train(
    model: LLaMaTransformer,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: RunConfig,
    state: TrainState = TrainState(),
    loss_function: LossFunction = batch_loss,
    guard: Guard | None = None,
) -> Generator[tuple[TrainState, StepMetrics | None], bool | None, None]:
    """Train from `state` to config.training.steps; gives the state after each step, metrics every log_every.

    `batches` yields micro-batches. Leaving the iterator between two steps is always safe; sending it True gives
    the metrics since the last report first. UserError for a tie that is broken. On a GPU, where steps are recorded,
    what else of model and optimizer is changed between two steps may go unnoticed: begin anew after it.
    """
    check_tie(model, optimizer)
    make_ready(model, config)
    device = model.embeddings.weight.device
    guard = guard or Guard(device, config.training.max_z_score)
    stepper = Stepper(model, optimizer, config, guard, loss_function)
    source = training_batches(batches, state, device)
    figures: list[Tensor] = []
    begins: list[Position] = []
    ahead: list[tuple[DeviceBatch, int, TrainState]] = []
    since, tokens_then = time.perf_counter(), state.tokens
    for step in range(state.step, config.training.steps):
        lr = config.optimizer.lr * lr_multiplier(step, config.training.steps, config.optimizer)
        taken = ahead or [next(source) for _ in range(config.training.accumulation)]
        figures.append(stepper([item[:2] for item in taken], lr))
        # While the device works, so that it needn't wait for them after a report.
        ahead = [next(source) for _ in range(config.training.accumulation)] if step + 1 < config.training.steps else []
        begins.append(state.position)
        state = TrainState(step + 1, taken[-1][2].tokens, taken[-1][2].position)
        metrics = None
        if state.step % config.training.log_every == 0 or state.step == config.training.steps:
            # Reading the figures waits for the device, so it's done for many steps at once.
            rows = torch.stack(figures).tolist()
            now = time.perf_counter()
            speed = (state.tokens - tokens_then) / (now - since)
            metrics = _report(state, lr, speed, rows, begins, guard.streak)
            figures, begins, since, tokens_then = [], [], now, state.tokens
        asked = yield state, metrics
        if asked:
            rows = torch.stack(figures).tolist() if figures else []
            yield state, _report(state, lr, 0.0, rows, begins, guard.streak)
        if metrics is not None:
            since = time.perf_counter()


def _report(
    state: TrainState, lr: float, speed: float, rows: list[list[float]], begins: list[Position], streak: int
) -> StepMetrics:
    first = state.step - len(rows) + 1
    skipped = tuple(
        Skipped(step, reason(verdict), loss, norm, begin)
        for step, ((loss, norm, verdict), begin) in enumerate(zip(rows, begins, strict=True), first)
        if verdict
    )
    counted = [row for row in rows if not row[2]] or rows
    loss, norm = (math.fsum(row[at] for row in counted) / max(len(counted), 1) for at in (0, 1))
    return StepMetrics(state.step, state.tokens, loss, lr, norm, speed, skipped, streak)
