"""Real training steps of a configuration on random tokens: how fast they are, what they need, where the time goes."""

import contextlib
import gc
import importlib
import json
import os
import statistics
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from llamita import layers
from llamita.config import DeviceName, Precision, RunConfig
from llamita.errors import UserError
from llamita.runs.folder import initial_model
from llamita.text.batches import Batch
from llamita.training.compiling import loss_function
from llamita.training.evaluate import DeviceBatch, to_device
from llamita.training.guard import Guard
from llamita.training.optimizer import build_optimizer
from llamita.training.plan import flops_per_token, training_memory
from llamita.training.stepping import WARMUP_STEPS, Stepper, make_ready
from llamita.training.tuning import pinned

resource: Any = importlib.import_module("resource") if os.name == "posix" else None

Progress = Callable[[str, float, float], None]

_LEAST_ROUNDS, _MOST_ROUNDS = 3, 100
_PROFILED_STEPS = 2
_DOCUMENT = 256  # tokens of a document that isn't real, in the mean
# Side of the product whose speed is taken for what a machine can do at most.
_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 1536}
# Dense bf16, from NVIDIA's data sheets of the H100 SXM (its H200 is the same chip) and the A100.
_DATA_SHEETS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}

# What a kernel of a GPU, or an operator on a CPU, belongs to, by parts of its name; the first that fits counts.
_KINDS = {
    "loss": ("losses_into_gradients", "log_softmax", "nll_loss", "cross_entropy", "_ChunkedLoss"),
    "attention": ("flash", "fmha", "sdpa", "attention", "CpuAttention", "aten::bmm", "aten::baddbmm"),
    "matrix products": ("nvjet", "gemm", "cutlass", "splitK", "xmma", "aten::mm", "aten::addmm", "aten::linear"),
    "optimizer, clipping": ("multi_tensor_apply", "adamw", "Optimizer", "foreach", "lpnorm"),
    "copies": ("memcpy", "memset", "aten::copy_", "aten::_to_copy"),
}
_REST = "norms, SwiGLU, rotations, casts, sums"
IDLE = "nothing, or Python"


@dataclass(frozen=True, slots=True)
class Measured:
    """What training steps of a configuration take on this machine.

    spread: of the rounds, the slowest over the fastest, less 1. start_seconds: until the first steps were done,
    compilation included. peak_bytes: above what was there before, estimated_bytes: by `training_memory`.
    flops_per_second: operations of the model, as `flops_per_token` counts. product_flops: what one large product
    reaches here, of fp32 or else of bf16; data_sheet_flops: what the maker says of bf16, where that is known.
    shares: of a step, by what it is spent on.
    """

    device: str
    precision: Precision
    compiled: bool
    tokens_per_step: int
    seconds_per_step: float
    spread: float
    start_seconds: float
    peak_bytes: int
    estimated_bytes: int
    flops_per_second: float
    product_flops: float
    data_sheet_flops: float | None
    shares: dict[str, float]

    @property
    def tokens_per_second(self) -> float:
        """Training speed."""
        return self.tokens_per_step / self.seconds_per_step


class Trial:
    """A model in training on random tokens; `step` takes one optimizer step."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = torch.device(config.training.device)
        self.model = initial_model(config).to(self.device)
        make_ready(self.model, config)
        parts = build_optimizer(self.model, config.optimizer), config, Guard(self.device, config.training.max_z_score)
        self._take = Stepper(self.model, *parts, loss_function(config.training))
        batch = random_batch(config, self.device)
        self._batches = [(batch, batch.targets.numel())] * config.training.accumulation

    def step(self) -> None:
        """One optimizer step; a GPU may still be at it when this returns."""
        self._take(self._batches, self.config.optimizer.lr)

    def warm_up(self) -> None:
        """The first steps; a GPU also records one, and replays it."""
        for _ in range(WARMUP_STEPS + (2 if self.device.type == "cuda" else 0)):
            self.step()
        _synchronize(self.config.training.device)


def random_batch(config: RunConfig, device: torch.device) -> DeviceBatch:
    """A micro-batch of tokens that mean nothing, always the same ones; of documents where a run's see no other."""
    draw = np.random.default_rng(config.training.seed)
    rows, seq_len = config.training.micro_batch_size, config.model.max_seq_len
    tokens = draw.integers(config.model.vocab_size - config.model.unpredicted_rows, size=(rows, seq_len + 1))
    begins = draw.random((rows, seq_len)) < 1 / _DOCUMENT
    documents = np.cumsum(begins, axis=1, dtype=np.int64) if config.data.mask_documents else None
    inputs, targets = (np.ascontiguousarray(part) for part in (tokens[:, :-1], tokens[:, 1:]))
    return to_device(Batch(inputs, targets, documents, targets.size), device)


def seconds_per_token(config: RunConfig) -> float | None:
    """Training time of a token, of few steps; None if there isn't the memory for them."""
    try:
        return _seconds_per_token(config)
    except torch.OutOfMemoryError:
        return None


def _seconds_per_token(config: RunConfig) -> float:
    with _as_the_run_would(config), pinned(config.training.attention):
        trial = Trial(config)
        trial.warm_up()
        return min(_rounds(trial, 1.0, None)) / config.tokens_per_step


def measure(
    config: RunConfig, *, seconds: float = 10.0, trace: Path | None = None, progress: Progress | None = None
) -> Measured:
    """Train on random tokens for some seconds and measure; `trace` gets a profile that ui.perfetto.dev opens.

    progress: told what is being done, the seconds that it has taken and those that it will. Random numbers of the
    process stay as they are. torch.OutOfMemoryError where the configuration needs more than there is.
    """
    training = config.training
    with _as_the_run_would(config), pinned(training.attention):
        before = _memory(training.device)
        began = time.perf_counter()
        if progress:
            progress("starting, compiling" if training.compile else "starting", 0.0, seconds)
        trial = Trial(config)
        trial.warm_up()
        start_seconds = time.perf_counter() - began
        rounds = _rounds(trial, seconds, progress)
        peak = _memory(training.device, peak=True) - before
        step = statistics.median(rounds)
        shares = _shares(trial, step, trace)
        del trial
        product = product_speed(training.device, training.precision)
    return Measured(
        device=torch.cuda.get_device_name() if training.device == "cuda" else training.device,
        precision=training.precision,
        compiled=training.compile,
        tokens_per_step=config.tokens_per_step,
        seconds_per_step=step,
        spread=max(rounds) / min(rounds) - 1,
        start_seconds=start_seconds,
        peak_bytes=peak,
        estimated_bytes=training_memory(config),
        flops_per_second=flops_per_token(config.model) * config.tokens_per_step / step,
        product_flops=product,
        data_sheet_flops=_data_sheet(training.device),
        shares=shares,
    )


@contextlib.contextmanager
def _as_the_run_would(config: RunConfig) -> Iterator[None]:
    """Threads of the configuration, and neither random numbers nor memory left changed."""
    threads, training = torch.get_num_threads(), config.training
    gpus = [torch.cuda.current_device()] if training.device == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.set_num_threads(training.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            gc.collect()
            if training.device == "cuda":
                torch.cuda.empty_cache()


def _rounds(trial: Trial, seconds: float, progress: Progress | None) -> list[float]:
    """Seconds a step, by rounds of about a tenth of the time."""
    rounds: list[float] = []
    steps, ends = 1, time.perf_counter() + seconds
    while len(rounds) < _LEAST_ROUNDS or (time.perf_counter() < ends and len(rounds) < _MOST_ROUNDS):
        began = time.perf_counter()
        for _ in range(steps):
            trial.step()
        _synchronize(trial.config.training.device)
        rounds.append((time.perf_counter() - began) / steps)
        if progress:
            progress("measuring", min(max(seconds - ends + time.perf_counter(), 0.0), seconds), seconds)
        if len(rounds) == 1:
            steps = max(round(seconds / 10 / rounds[0]), 1)
    return rounds


def _shares(trial: Trial, seconds: float, trace: Path | None) -> dict[str, float]:
    """What a step of so many seconds is spent on, in parts of it, the largest first."""
    on_gpu = trial.config.training.device == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with _stderr_closed(), profile(activities=activities) as found:
        began = time.perf_counter()
        for _ in range(_PROFILED_STEPS):
            trial.step()
        _synchronize(trial.config.training.device)
        wall = time.perf_counter() - began
    if trace is not None:
        found.export_chrome_trace(str(trace))
        if not trace.is_file():
            raise UserError(f"{trace}: can't be written; give a file in a folder of yours")
    spent: dict[str, float] = {}
    for event in found.key_averages():
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micros and (event.device_type.name == "CUDA") == on_gpu and not event.is_user_annotation:
            kind = kind_of(event.key)
            spent[kind] = spent.get(kind, 0.0) + micros / 1e6
    # What operators on a CPU leave is Python's; on a GPU, watching slows those who start kernels, and not these.
    wall = _PROFILED_STEPS * seconds if on_gpu else wall
    spent[IDLE] = max(wall - sum(spent.values()), 0.0)
    total = max(wall, sum(spent.values()))
    return {kind: part / total for kind, part in sorted(spent.items(), key=lambda item: -item[1])}


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Without what torch 2.13's profiler says to standard error whenever it begins and ends."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def kind_of(name: str) -> str:
    """What a kernel or an operator belongs to."""
    lower = name.lower()
    return next((kind for kind, parts in _KINDS.items() if any(part.lower() in lower for part in parts)), _REST)


def product_speed(device: DeviceName, precision: Precision) -> float:
    """Operations a second of one large matrix product in this precision, the best of a few."""
    side, dtype = _SIDE[device], torch.float32 if precision == "fp32" else torch.bfloat16
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        left @ right
        _synchronize(device)
        best = min(best, time.perf_counter() - began)
    return float(2 * side**3 / best)


def _data_sheet(device: DeviceName) -> float | None:
    if device != "cuda":
        return None
    return _DATA_SHEETS.get(torch.cuda.get_device_name())


def _synchronize(device: DeviceName) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _memory(device: DeviceName, peak: bool = False) -> int:
    """Bytes of a device that are taken, or were at the most since the last call; of a CPU, the process's most."""
    if device == "cuda":
        taken = torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return int(taken)
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    if resource is None:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    # In a process of its own, so that whatever happens to it happens to nobody else; see `tuning.seconds_per_token`.
    print(json.dumps({"seconds_per_token": seconds_per_token(layers.build(tomllib.loads(sys.stdin.read())))}))
