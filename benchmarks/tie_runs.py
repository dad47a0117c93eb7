"""Tied against untied on real text: training runs over the GPUs of a machine, one JSON line a run.

python benchmarks/tie_runs.py tokens TEXT... --tokens tokens.bin
python benchmarks/tie_runs.py run gap sweep bars transfer --tokens tokens.bin --out runs.jsonl

Model, optimizer and step are the library's; batches are windows of the token file drawn at random, its last million
tokens are held out. What the suites hold stands in `suites`; a path that ends in .jsonl names a file of jobs instead.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamita.config import DeviceName, ModelConfig, OptimizerConfig, Precision, RunConfig, TrainingConfig
from llamita.model.block import DecoderBlock
from llamita.model.transformer import LLaMaTransformer
from llamita.text.shards import Corpus
from llamita.training.compiling import loss_function
from llamita.training.evaluate import DeviceBatch, evaluate
from llamita.training.guard import Guard
from llamita.training.optimizer import build_optimizer, check_tie
from llamita.training.schedule import lr_multiplier
from llamita.training.sizes import pick_rates
from llamita.training.stepping import Stepper, make_ready

VOCAB_SIZE = 32768
SEQ_LEN = 1024
ROWS = 32
HELD_OUT = 1_000_000
KEPT = 30_000_000
TOKENIZER_BYTES = 30_000_000
EVERY = 10  # steps between points of a loss curve

Settings = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training run; what `model` and `optimizer` leave out follows the library's defaults and what it picks.

    projections: initial std of o_proj and down_proj over that of the other matrices; the library's is 0.
    """

    name: str
    seed: int = 0
    precision: Precision = "bf16"
    steps: int = 500
    n_embd: int = 768
    n_layers: int = 12
    model: Settings = field(default_factory=dict)
    optimizer: Settings = field(default_factory=dict)
    projections: float = 0.0

    @property
    def graph(self) -> str:
        """What a compiled graph depends on."""
        return json.dumps([self.n_embd, self.n_layers, self.model, self.precision], sort_keys=True)

    def config(self, device: DeviceName) -> RunConfig:
        """The run's configuration."""
        shape: Settings = {"n_embd": self.n_embd, "n_layers": self.n_layers, "n_heads": max(self.n_embd // 64, 1)}
        model = ModelConfig(vocab_size=VOCAB_SIZE, multiple_of=256, max_seq_len=SEQ_LEN, **shape, **self.model)
        given = {**pick_rates(self.n_embd, VOCAB_SIZE, self.steps), "min_lr_ratio": 0.1}
        optimizer = OptimizerConfig(**{**given, **self.optimizer})
        training = TrainingConfig(steps=self.steps, batch_size=ROWS, device=device, precision=self.precision)
        return RunConfig(model=model, optimizer=optimizer, training=training)


def multiplied(rule: Settings, matrices: float, tables: float) -> Settings:
    """Settings whose rates are multiples of a rule's."""
    return {**rule, "lr": matrices * rule["lr"], "table_lr_ratio": tables / matrices * rule["table_lr_ratio"]}


UNTIED = {"tie_embeddings": False}
NAIVE = {"embedding_std": 1.0, "embedding_scale": 1.0}
BASELINE_ROWS = {"embedding_std": 0.02, "embedding_scale": 1.0}
BASELINE_RATES = {"lr": 1e-3, "table_lr_ratio": 3.0, "warmup_steps": 40}
LONG = 1830


def suites() -> dict[str, list[Job]]:
    """Jobs by name of suite, long ones first."""
    gap = [
        Job(name, seed=seed, steps=LONG, model=model, optimizer=optimizer)
        for seed in (0, 1, 2)
        for name, model, optimizer in (("tied", {}, {}), ("untied", UNTIED, {}), ("untied, best", UNTIED, BEST_UNTIED))
    ]
    bars = [
        Job(name, seed=seed, model=model, optimizer=optimizer, projections=projections)
        for seed in (0, 1, 2)
        for name, model, optimizer, projections in (
            ("tied", {}, {}, 0.0),
            ("untied", UNTIED, {}, 0.0),
            ("tied, std 0.02, table rate x3", BASELINE_ROWS, BASELINE_RATES, 0.2),
            ("untied, RMS 1, table rate x3", UNTIED, BASELINE_RATES, 0.2),
            ("naive tie", NAIVE, BASELINE_RATES, 0.0),
        )
    ]
    transfer = [
        Job(f"{n_embd} x{matrices:g} x{tables:g}", steps=300, n_embd=n_embd, n_layers=6, optimizer=changed)
        for n_embd in (2048, 1024, 512, 256, 128)
        for matrices, tables in ((1, 1), (0.5, 1), (2, 1), (0.25, 1), (4, 1), (1, 0.5), (1, 2), (1, 0.25), (1, 4))
        for changed in [multiplied(pick_rates(n_embd, VOCAB_SIZE, 300), matrices, tables)]
    ]
    sweep = [
        Job(f"{name}, {what}", steps=LONG, model=model, optimizer=rule | changed)
        for name, model, rule in (
            ("tied", {}, pick_rates(768, VOCAB_SIZE, LONG)),
            ("untied, best", UNTIED, BEST_UNTIED),
        )
        for what, changed in (
            *((f"rates x{m:g} x{t:g}", multiplied(rule, m, t)) for m, t in ((1, 1.5), (0.7, 1), (1.4, 1), (1, 0.7))),
            ("decay 0.3", {"weight_decay": 0.3}),
            ("warm-up 300", {"warmup_steps": 300}),
        )
    ]
    precision = [
        Job(f"{name} {n_embd}", seed=seed, steps=steps, n_embd=n_embd, n_layers=n_layers, precision=name)
        for seed in (0, 1, 2)
        for n_embd, n_layers, steps, names in ((2048, 6, 300, ("bf16", "fp8")), (768, 12, 500, ("fp32", "bf16")))
        for name in names
    ]
    return {"gap": gap, "sweep": sweep, "bars": bars, "transfer": transfer, "precision": precision}


# Of those tried at 60 M tokens (docs/log.md, 2026-11-27).
BEST_UNTIED = {"lr": 1.4e-3, "table_lr_ratio": 1.5e-3 / 1.4e-3, "warmup_steps": 40}


@dataclass
class Workshop:
    """A model of a graph with its compiled loss, initialised anew for every job."""

    model: LLaMaTransformer
    loss: Callable[[LLaMaTransformer, DeviceBatch], torch.Tensor]


def workshop(job: Job, device: str) -> Workshop:
    """Build and compile for a job's graph."""
    kind: DeviceName = "cpu" if device == "cpu" else "cuda"
    config = job.config(kind)
    loss = loss_function(replace(config.training, compile=kind != "cpu"))
    return Workshop(LLaMaTransformer(config.model).to(device), loss)


@torch.no_grad()
def initialise(job: Job, model: LLaMaTransformer) -> None:
    """Draw every weight anew."""
    draw = torch.Generator(model.embeddings.weight.device).manual_seed(job.seed)
    model.init_weights(draw)
    for block in model.decoder_blocks:
        assert isinstance(block, DecoderBlock)
        for linear in (block.attention.o_proj, block.feed_forward.down_proj):
            linear.weight.normal_(0.0, job.projections * 0.6 / math.sqrt(linear.in_features), generator=draw)


def train(job: Job, made: Workshop, tokens: torch.Tensor, corpora: tuple[Corpus, Corpus]) -> dict[str, Any]:
    """Train one job and measure it."""
    began = time.perf_counter()
    model, device = made.model, tokens.device
    config = job.config("cpu" if device.type == "cpu" else "cuda")
    initialise(job, model)
    optimizer, guard = build_optimizer(model, config.optimizer), Guard(device, None)
    check_tie(model, optimizer)
    order = torch.Generator().manual_seed(job.seed)
    window = torch.arange(SEQ_LEN + 1, device=device)
    figures = []
    make_ready(model, config)
    stepper = Stepper(model, optimizer, config, guard, made.loss)
    for at in range(job.steps):
        lr = config.optimizer.lr * lr_multiplier(at, job.steps, config.optimizer)
        starts = torch.randint(0, len(tokens) - HELD_OUT - SEQ_LEN - 1, (ROWS,), generator=order).to(device)
        rows = tokens[starts[:, None] + window].long()
        batch = DeviceBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), None)
        figures.append(stepper([(batch, ROWS * SEQ_LEN)], lr))
    losses, norms = torch.stack(figures).T[:2].cpu()
    seconds = time.perf_counter() - began
    trained_on, held_out = corpora
    result = evaluate(model, held_out, precision="bf16", counts=trained_on.token_counts)
    return {
        **asdict(job),
        "rates": [group["lr_ratio"] * config.optimizer.lr for group in optimizer.param_groups],
        "first": round(float(losses[0]), 3),
        "largest_norm": round(float(norms.max()), 1),
        "held_out": round(result.loss, 4),
        "bands": [[band.least, round(band.loss, 3)] for band in result.bands],
        "seconds": round(seconds, 1),
        "curve": [round(float(part.mean()), 3) for part in losses.split(EVERY)],
    }


def corpus_of(ids: np.ndarray[Any, Any]) -> Corpus:
    """Token ids as a corpus."""
    return Corpus((ids,), (np.zeros(1, np.int64),), VOCAB_SIZE, None, "", len(ids), "")


def work(device: str, queue: list[Job], lock: Any, options: argparse.Namespace, ends: float) -> None:
    """Take jobs until none is left that can end in time, those of the graph in hand first."""
    if device != "cpu":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    ids = np.fromfile(options.tokens, dtype=np.uint16)
    tokens = torch.from_numpy(ids.astype(np.int32)).to(device)
    corpora = corpus_of(ids[:-HELD_OUT]), corpus_of(ids[-HELD_OUT:])
    made: Workshop | None = None
    graph = ""
    pace: dict[str, float] = {}
    while True:
        with lock:
            waiting = sorted(range(len(queue)), key=lambda at: queue[at].graph != graph)
            fitting = (at for at in waiting if time.time() + queue[at].steps * pace.get(queue[at].graph, 0) < ends)
            at = next(fitting, None)
            if at is None:
                return
            job = queue.pop(at)
        if made is None or job.graph != graph:
            made, graph = None, job.graph
            torch._dynamo.reset()
            made = workshop(job, device)
        try:
            row = train(job, made, tokens, corpora)
            pace[graph] = min(pace.get(graph, math.inf), row["seconds"] / job.steps)
        except Exception as error:
            row = {**asdict(job), "error": repr(error)[:300]}
        with lock, open(options.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps({key: value for key, value in row.items() if key not in ("curve", "bands")}), flush=True)


def run(options: argparse.Namespace) -> None:
    """All jobs, on all GPUs."""
    ends = time.time() + 60 * options.minutes
    jobs: list[Job] = []
    for name in options.suites:
        if name.endswith(".jsonl"):
            jobs += [Job(**json.loads(line)) for line in Path(name).read_text(encoding="utf-8").splitlines()]
        else:
            jobs += suites()[name]
    jobs = [replace(job, steps=min(job.steps, options.steps)) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue, lock = manager.list(jobs), manager.Lock()
        devices = [f"cuda:{at}" for at in range(torch.cuda.device_count())] or ["cpu"]
        workers = [context.Process(target=work, args=(one, queue, lock, options, ends)) for one in devices]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(f"{len(queue)} of {len(jobs)} jobs left")


def prepare(options: argparse.Namespace) -> None:
    """Encode jsonl or text files, a beginning-of-text token before each document; keep the last 30 M tokens."""
    from llamita.text.formats import ReadReport, Source, records
    from llamita.text.tokenizer import Tokenizer

    def texts() -> Iterator[str]:
        for path in sorted(options.text):
            for _, text in records(Source.of(path), "text", ReadReport()):
                yield text

    def first(size: int) -> Iterator[str]:
        for text in texts():
            yield text
            size -= len(text.encode())
            if size < 0:
                return

    tokenizer = Tokenizer.train(first(TOKENIZER_BYTES), vocab_size=VOCAB_SIZE)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    begin = tokenizer.bos_id
    ids = [np.asarray([begin, *document], dtype=np.uint16) for document in tokenizer.encode_stream(texts())]
    np.concatenate(ids)[-KEPT:].tofile(options.tokens)


def main() -> None:
    """Prepare tokens, or run jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tokens, running = (commands.add_parser(name) for name in ("tokens", "run"))
    tokens.add_argument("text", nargs="+")
    running.add_argument("suites", nargs="+")
    running.add_argument("--out", required=True)
    running.add_argument("--minutes", type=float, default=60.0)
    running.add_argument("--steps", type=int, default=LONG, help="at most so many a run")
    for command in (tokens, running):
        command.add_argument("--tokens", required=True)
    options = parser.parse_args()
    {"tokens": prepare, "run": run}[options.command](options)


if __name__ == "__main__":
    main()
