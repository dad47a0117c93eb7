"""Runs to be interrupted: prepared once, trained once without a fault, and copied for every trial."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer step imports it, which would take most of every trial

from llamita.cli.app import main
from llamita.errors import UserError
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.checkpoint import load_state
from llamita.runs.folder import Run
from llamita.text.batches import Batches
from llamita.text.shards import open_corpora
from llamita.training import session
from llamita.training.evaluate import DeviceBatch, batch_loss
from llamita.training.events import Saved
from llamita.training.loop import StepMetrics
from llamita.training.session import Session
from tests.faults import Disk, die, ended, forked, in_background
from tests.training.tiny_runs import checkpoint_bytes, small_run

TEXT = Path(__file__).parents[1] / "data" / "tiny.txt"
STEPS = 40
_BASE: dict[str, Any] = {
    **{"training.steps": STEPS, "training.save_every": 5, "training.eval_every": 10, "training.log_every": 1},
    **{"training.keep_last": 3, "training.eval_tokens": 500},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "word": {"tokenizer.kind": "word"},
    "char": {"tokenizer.kind": "char", "training.micro_batch_size": 1},
    "byte": {"tokenizer.kind": "byte", "data.packing": "documents"},
    "bf16, untied": {"training.precision": "bf16", "model.tie_embeddings": False},
    "samples": {"training.sample_tokens": 4, "training.micro_batch_size": 2, "data.validation_fraction": 0.3},
}


@dataclass(frozen=True)
class Example:
    """A run that is ready to train, and every byte of what its last checkpoint must be.

    `seconds` is what training takes; the calls are those that change the disk, in all saves or while it's prepared.
    """

    name: str
    run: Run
    end: dict[str, bytes]
    seconds: float
    calls_of_saves: int
    calls_to_prepare: int

    def copied(self, folder: Path) -> Run:
        """A copy to be broken."""
        return Run.open(shutil.copytree(self.run.path, folder))


def prepared(folder: Path, name: str) -> Run:
    """A run folder of a variant, ready to train."""
    return small_run(folder, TEXT, _BASE | VARIANTS[name])


def example(folder: Path, name: str) -> Example:
    """Prepare a run and train copies of it to their end, which are thrown away."""
    run = folder / "example"
    calls_to_prepare = _counted(folder, lambda: prepared(run, name))
    whole, watched = (shutil.copytree(run, folder / kind) for kind in ("whole", "watched"))
    begun = time.perf_counter()
    assert ended(forked(lambda: train(Run.open(whole)))) == 0
    seconds = time.perf_counter() - begun
    calls = _counted(folder, lambda: train(Run.open(watched)), in_background)
    end = checkpoint_bytes(Run.open(whole))
    assert end == checkpoint_bytes(Run.open(watched))
    for path in (whole, watched):
        shutil.rmtree(path)
    return Example(name, Run.open(run), end, seconds, calls, calls_to_prepare)


def _counted(folder: Path, work: Callable[[], object], counts: Callable[[], bool] = lambda: True) -> int:
    """How many calls that change the disk some work makes, in a process of its own."""
    counted = folder / "calls"

    def count() -> None:
        with Disk(counts=counts).watched() as disk:
            work()
        counted.write_text(str(len(disk.calls)), encoding="utf-8")

    folder.mkdir(exist_ok=True)
    assert ended(forked(count)) == 0
    return int(counted.read_text(encoding="utf-8"))


def train(run: Run, until: int | None = None) -> None:
    """Train a run to its end from where it stands, as a new process does, or die after a step.

    What it tells of is noted beside the run's folder, where no fault reaches.
    """
    torch.set_num_threads(1)
    with open(_told(run), "w", encoding="utf-8") as told:
        for event in Session(run).events():
            if isinstance(event, StepMetrics | Saved):
                kind, step = (
                    ("step", event.step) if isinstance(event, StepMetrics) else ("saved", event.checkpoint.step)
                )
                told.write(f"{kind} {step}\n")
                told.flush()
            if isinstance(event, StepMetrics) and event.step == until:
                die()


def _told(run: Run) -> Path:
    return run.path.with_name(f"{run.name}.told")


def taken_back(run: Run) -> tuple[int, bool]:
    """Steps that a killed process had told of and that must be taken again; and whether all is there that was saved."""
    newest = newest_step(run)
    lost = newest < _last_told(run, "saved")
    steps = max(_last_told(run, "step") - newest, 0)
    _told(run).unlink(missing_ok=True)
    return steps, not lost


def _last_told(run: Run, kind: str) -> int:
    if not _told(run).exists():
        return 0
    lines = [line.split() for line in _told(run).read_text(encoding="utf-8").splitlines()]
    return next((int(line[1]) for line in reversed(lines) if line[0] == kind), 0)


def train_poisoned(run: Run, bad_steps: Iterable[int]) -> None:
    """Train a run in which some batches, numbered as they come without a rewind, have a loss that isn't finite."""
    config = run.config()
    rows, seq_len, micro = config.training.micro_batch_size, config.model.max_seq_len, config.training.accumulation
    corpus = open_corpora(run.data_folder).train
    packing = config.data.packing
    batches = Batches(corpus, rows=rows, seq_len=seq_len, seed=config.training.seed, packing=packing).iterate()
    numbers = {step * micro + at for step in bad_steps for at in range(micro)}
    seen = islice(batches, max(numbers) + 1)
    bad = {batch.inputs.tobytes() for number, (batch, _) in enumerate(seen) if number in numbers}

    def loss(model: LLaMaTransformer, batch: DeviceBatch) -> torch.Tensor:
        found = batch_loss(model, batch)
        return found * math.nan if batch.inputs.numpy().tobytes() in bad else found

    session.loss_function = lambda _training: loss
    train(run)


def resume(run: Run, *options: str) -> None:
    """`llamita resume`, signals and all, without its words; ends the process with its exit code."""
    torch.set_num_threads(1)
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        main(["resume", str(run.path), *options])


def newest_step(run: Run) -> int:
    """The step of the newest checkpoint, 0 without any."""
    found = run.checkpoints()
    return found[-1].step if found else 0


def last_step(run: Run) -> int:
    """The last step that was told of in the metrics."""
    last = 0
    with suppress(OSError):
        for line in run.metrics_file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                last = max(last, int(json.loads(line)["step"]))
    return last


def bytes_lost(run: Run) -> int:
    """Bytes in checkpoints that pass for complete but can't be loaded: must be 0."""
    lost = 0
    for item in run.checkpoints():
        try:
            load_state(item)
            run.model(str(item.step))
        except UserError:
            lost += sum(path.stat().st_size for path in item.path.iterdir())
    return lost
