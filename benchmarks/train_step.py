"""Training tokens a second on one GPU, llamita against rivals at their best effort, and against itself without a trick.

    python benchmarks/train_step.py --shape 124m --against litgpt,hf --rounds 3
    python benchmarks/train_step.py --shape 124m --against "" --without all --documents 400

Every candidate has a process of its own, which compiles once; then they take turns, a round each, and what isn't
measuring waits in host memory. All get the same weights at first, the same batches and the same optimizer, so their
losses must agree (but for `--documents`, which rivals don't keep apart). Each chooses among `--rows` the batch that it
is fastest with. Prints one JSON line a candidate and round, then one with medians, spread and ratios. Rivals are those
that are installed; no rival's step is recorded as a CUDA graph, since none does it.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from candidates import CANDIDATES, SHAPES, TRICKS, Shape, llamita
from torch import Tensor

from llamita.training.tuning import pinned

WARMUP_STEPS = 6
PEAK_FLOPS = 989e12  # dense bf16 of these: https://www.nvidia.com/en-us/data-center/h100/
PEAKS_OF = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")


class Bench:
    """A candidate with its batch, measured in rounds, and in host memory between them."""

    def __init__(self, name: str, shape: Shape, rows: int, device: str) -> None:
        self.name, self.shape, self.rows, self.device = name, shape, rows, device
        began = time.perf_counter()
        self.candidate = CANDIDATES[name](replace(shape, rows=(rows,)), device)
        draw = torch.Generator().manual_seed(1)
        tokens = torch.randint(shape.vocab_size, (8, rows, shape.seq_len + 1), generator=draw).to(device)
        self.batches = [(one[:, :-1].contiguous(), one[:, 1:].contiguous()) for one in tokens]
        self.losses: list[float] = []
        self.run(WARMUP_STEPS)
        self.start_seconds = time.perf_counter() - began

    def run(self, steps: int) -> float:
        """Seconds of some steps."""
        synchronize(self.device)
        began, losses = time.perf_counter(), []
        for _ in range(steps):
            inputs, targets = self.batches[(len(self.losses) + len(losses)) % len(self.batches)]
            losses.append(self.candidate.step(inputs, targets))
        synchronize(self.device)
        seconds = time.perf_counter() - began
        self.losses += torch.stack(losses).tolist()
        return seconds

    def round(self, steps: int) -> dict[str, Any]:
        """A round's figures."""
        speed = steps * self.rows * self.shape.seq_len / self.run(steps)
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0.0
        return {
            "candidate": self.name,
            "rows": self.rows,
            "tokens_per_second": round(speed),
            "mfu": self.mfu(speed),
            "peak_gib": round(memory, 1),
        }

    def mfu(self, speed: float) -> float | None:
        """The share of the GPU's operations a second, as its maker says, that the model's are at this speed."""
        known = self.device == "cuda" and torch.cuda.get_device_name() in PEAKS_OF
        return round(speed * self.shape.flops_per_token / PEAK_FLOPS, 3) if known else None

    def move(self, device: str) -> None:
        """Weights and moments to a device; what is compiled stays, what is recorded doesn't."""
        moments = [value for state in self.candidate.optimizer.state.values() for value in state.values()]
        for tensor in [*self.candidate.model.parameters(), *(one for one in moments if isinstance(one, Tensor))]:
            if tensor.dim() > 0:
                tensor.data = tensor.data.to(device)
        self.candidate.moved()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()  # a replayed step allocates nothing: those before it count


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(name: str, shape: Shape, device: str, steps: int) -> tuple[Bench, dict[str, Any]]:
    """A candidate at the number of rows that it is fastest with, and how it started with each that fits."""
    best: tuple[float, Bench] | None = None
    told: dict[str, Any] = {"candidate": name}
    for rows in shape.rows:
        try:
            torch._dynamo.reset()
            one = Bench(name, shape, rows, device)
            speed = rows * shape.seq_len * steps / one.run(steps)
        except torch.OutOfMemoryError:
            break
        told.setdefault("losses", [round(loss, 4) for loss in one.losses])
        told[f"rows {rows}"] = {"start_seconds": round(one.start_seconds, 1), "tokens_per_second": round(speed)}
        one.move("cpu")
        if best is None or speed > best[0]:
            best = speed, one
        del one
    if best is None:
        raise RuntimeError(f"no batch of {shape.rows} rows fits")
    return best[1], told


def serve(
    name: str, shape: Shape, device: str, steps: int, pipe: Connection, attention: str, documents: int | None
) -> None:
    """Measure a round whenever asked; an exception ends it."""
    torch.set_float32_matmul_precision("high")
    CANDIDATES["llamita"] = ours = partial(llamita, documents=documents)
    CANDIDATES["fp8"] = partial(ours, precision="fp8")
    if (trick := name.removeprefix("without ")) in TRICKS:
        TRICKS[trick]()
        CANDIDATES[name] = ours
    try:
        with pinned("torch" if attention == "auto" or device == "cpu" else attention):
            bench, told = fastest(name, shape, device, steps)
            pipe.send(told)
            while pipe.recv() == "round":
                bench.move(device)
                bench.run(WARMUP_STEPS)
                row = bench.round(steps)
                bench.move("cpu")
                pipe.send(row)
    except Exception as error:
        pipe.send({"candidate": name, "error": f"{type(error).__name__}: {error}"[:400]})


def main() -> None:
    """Start the candidates one after the other, then let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="124m")
    parser.add_argument("--against", default="litgpt,hf", help="rivals, with commas; fp8 is llamita in it")
    parser.add_argument("--without", default="", help=f"llamita without tricks, too: {', '.join(TRICKS)} or all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rows", help="numbers of rows to choose among, with commas, instead of the shape's")
    parser.add_argument("--documents", type=int, help="mean length of documents, which llamita's attention keeps apart")
    parser.add_argument("--attention", choices=("cudnn", "flash", "auto"), default="cudnn")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES[options.shape]
    if options.rows:
        shape = replace(shape, rows=tuple(int(rows) for rows in options.rows.split(",")))
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    losses: dict[str, list[float]] = {}
    processes: list[SpawnProcess] = []
    tricks = TRICKS if options.without == "all" else filter(None, options.without.split(","))
    for name in ["llamita", *filter(None, options.against.split(",")), *(f"without {trick}" for trick in tricks)]:
        here, there = context.Pipe()
        arguments = (name, shape, device, options.steps, there, options.attention, options.documents)
        processes.append(context.Process(target=serve, args=arguments, daemon=True))
        processes[-1].start()
        there.close()  # so that one who dies is missed
        said = answer(name, here)
        print(json.dumps(said), flush=True)
        if "error" not in said:
            pipes[name] = here
            losses[name] = said["losses"]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in pipes}
    for number in range(options.rounds):
        for name, pipe in list(pipes.items()):
            pipe.send("round")
            row = answer(name, pipe)
            print(json.dumps({"round": number, "shape": options.shape, **row}), flush=True)
            if "error" in row:
                del pipes[name]
            else:
                rows[name].append(row)
    for pipe in pipes.values():
        pipe.send("end")
    for process in processes:
        process.join(timeout=10)
    asked = {"shape": options.shape, "documents": options.documents}
    print(json.dumps({**asked, **summary(device, rows), "loss_differences": differences(losses)}))
    if "llamita" not in pipes:
        sys.exit(1)


def answer(name: str, pipe: Connection) -> dict[str, Any]:
    """What a candidate says, or that it died."""
    try:
        said: dict[str, Any] = pipe.recv()
    except (EOFError, OSError):
        return {"candidate": name, "error": "the process died"}
    return said


def summary(device: str, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, spread and ratios of all rounds."""
    speeds = {name: [row["tokens_per_second"] for row in found] for name, found in rows.items() if found}
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "medians": medians,
        "spread": {name: max(found) - min(found) for name, found in speeds.items()},
        "ratios": {
            name: round(medians["llamita"] / median, 3)
            for name, median in medians.items()
            if name != "llamita" and "llamita" in medians
        },
    }


def differences(losses: dict[str, list[float]]) -> dict[str, float]:
    """The largest distance of a rival's losses from llamita's over the same steps with the same batches."""
    ours = losses.get("llamita", [])
    return {
        name: max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
        for name, theirs in losses.items()
        if ours and name != "llamita"
    }


if __name__ == "__main__":
    main()
