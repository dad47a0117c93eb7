"""What protecting a run costs: the guard over every step, and saving while training goes on.

Trains a preset's shape on random tokens in rounds that take turns: without the guard, with it, and with it and a
save in the middle of every `--save-every` steps. Prints one JSON line a round, then medians and their ratios.

    python benchmarks/safety.py --shape 124m --rows 32 --rounds 3 --save-every 250
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from llamita import layers
from llamita.config import RunConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.runs.saving import Saver
from llamita.text.batches import Batches
from llamita.text.shards import Corpus
from llamita.training import loop
from llamita.training.compiling import loss_function
from llamita.training.guard import Guard
from llamita.training.hardware import choose_hardware
from llamita.training.optimizer import build_optimizer
from llamita.training.state import TrainState, state_tensors

SMALL = {"model": {"vocab_size": 1024, "n_embd": 128, "n_layers": 4, "n_heads": 4, "max_seq_len": 128}}


class NoGuard(Guard):
    """Lets everything pass without a look."""

    def judge(self, loss, _grad_norm):
        """No verdict."""
        return loss.new_zeros(())


def config_of(shape: str, rows: int, steps: int) -> RunConfig:
    """A config of a preset's shape in which every field has a value."""
    hardware = choose_hardware("auto", "auto")
    base = layers.preset(shape).values if shape != "small" else SMALL
    vocab_size = base.get("model", {}).get("vocab_size") or base["tokenizer"]["vocab_size"]
    training = {
        **{"batch_size": rows, "micro_batch_size": rows, "steps": steps, "log_every": 10},
        **{"device": hardware.device, "precision": hardware.precision, "threads": hardware.threads},
        **{"compile": hardware.device == "cuda"},
    }
    changes = layers.Layer("benchmark", {"model": {"vocab_size": vocab_size}, "training": training})
    return layers.build(layers.merge([layers.Layer(shape, base), changes])[0])


def corpus_of(vocab_size: int, tokens: int) -> Corpus:
    """One long document of random tokens."""
    ids = np.random.default_rng(0).integers(0, vocab_size, tokens).astype("<u2")
    starts = (np.zeros(1, "<i8"),)
    return Corpus((ids,), starts, vocab_size, None, "random", text_bytes=tokens, token_hash="")


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--folder", type=Path, help="where checkpoints go; default: a temporary folder")
    options = parser.parse_args()
    total = 20 + 3 * (options.rounds + 1) * options.save_every
    config = config_of(options.shape, options.rows, total)
    torch.manual_seed(0)
    torch.set_num_threads(config.training.threads)
    device = torch.device(config.training.device)
    model = LLaMaTransformer(config.model).to(device)
    optimizer = build_optimizer(model, config.optimizer)
    corpus = corpus_of(config.model.vocab_size, 20_000_000)
    batches = Batches(corpus, rows=options.rows, seq_len=config.model.max_seq_len, seed=0)
    loss = loss_function(config.training)
    state = TrainState()
    guards = {True: Guard(device, 6.0), False: NoGuard(device, None)}

    def steps(count: int, guarded: bool, saver: Saver | None = None) -> dict[str, float]:
        """Seconds that some steps take, in all and where saving holds them up."""
        nonlocal state
        held = 0.0
        wait_for_device(device)
        begun = time.perf_counter()
        training = loop.train(model, optimizer, batches, config, state, loss, guards[guarded])
        for number in range(count):
            state, _ = next(training)
            if saver is not None and number == count // 2:
                before = time.perf_counter()
                tensors = {**state_tensors(model, optimizer), **guards[True].tensors()}
                saver.begin(model.state_dict(), tensors, state.to_dict())
                held = time.perf_counter() - before
        wait_for_device(device)
        seconds = time.perf_counter() - begun
        if saver is not None:
            saver.outcome(wait=True)
        return {"seconds": seconds, "held": held, "whole_save": time.perf_counter() - begun}

    steps(20, True)
    found: dict[str, list[float]] = {"bare": [], "guarded": [], "saved": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        saver = Saver(Path(folder), keep_last=2)
        steps(20, True, saver)
        for number in range(options.rounds):
            order = list(found) if number % 2 == 0 else list(found)[::-1]
            for kind in order:
                row = steps(options.save_every, kind != "bare", saver if kind == "saved" else None)
                found[kind].append(row["seconds"])
                print(json.dumps({"round": number, "kind": kind, **row}), flush=True)
        written = sum(path.stat().st_size for path in sorted(Path(folder).glob("step_*"))[-1].iterdir())
    medians = {kind: statistics.median(seconds) / options.save_every for kind, seconds in found.items()}
    print(
        json.dumps(
            {
                "shape": options.shape,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "torch": torch.__version__,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "checkpoint_bytes": written,
                "tokens_per_step": config.tokens_per_step,
                "seconds_per_step": medians,
                "guard_costs": medians["guarded"] / medians["bare"] - 1,
                "a_save_every_so_many_steps_costs": medians["saved"] / medians["guarded"] - 1,
            }
        )
    )


def wait_for_device(device: torch.device) -> None:
    """Wait until everything that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
