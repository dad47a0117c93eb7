"""Tied against untied on real text: many training runs over the GPUs of a machine, one JSON line a run.

python benchmarks/tie_runs.py tokens TEXT... --tokens tokens.bin
python benchmarks/tie_runs.py run JOBS.jsonl --tokens tokens.bin --out runs.jsonl

Every run's model is a LLaMaTransformer without a head of its own; logits are read through a second parameter, which
shares the table's storage in a tied run. So all runs of a shape share one compiled graph, and both roles' gradients
can be told apart. A job is a JSON object of fields of `Job`.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamita.config import ModelConfig, OptimizerConfig
from llamita.model.block import DecoderBlock
from llamita.model.transformer import LLaMaTransformer
from llamita.training.schedule import lr_multiplier

VOCAB_SIZE = 32768
HELD_OUT = 1_000_000
TOKENIZER_BYTES = 30_000_000
BANDS = (0, 10, 100, 1000, 10_000)  # occurrences in the training text from which a band begins
EVERY = 10  # steps between points of a loss curve


@dataclass(frozen=True)
class Job:
    """One training run. What is None follows the library's defaults.

    rate: of the matrices. table_rate: of the lookup table, and of the readout unless readout_rate says otherwise.
    gain: the final norm's initial weights. projections: initial std of o_proj and down_proj over the other matrices'.
    roles: a tied table with moments for each role. untie_at: share of the steps after which the tie ends.
    """

    name: str
    seed: int = 0
    steps: int = 500
    tied: bool = True
    n_embd: int = 768
    n_layers: int = 12
    seq_len: int = 1024
    rows: int = 32
    std: float | None = None
    scale: float | None = None
    readout_std: float | None = None
    gain: float | None = None
    projections: float | None = None
    rate: float = 1e-3
    table_rate: float = 3e-3
    readout_rate: float | None = None
    gain_rate: float | None = None
    beta2: float = 0.95
    table_beta2: float | None = None
    warmup: int = 40
    table_eps: float = 1e-8
    qk_norm: bool = False
    last_projections: float | None = None
    anti_copy: float | None = None
    table_decay: float = 0.0
    decay: float = 0.1
    roles: bool = False
    input_grad: float = 1.0
    z_loss: float = 0.0
    soft_cap: float = 0.0
    norm_lookup: bool = False
    untie_at: float | None = None

    @property
    def graph(self) -> tuple[Any, ...]:
        """What a compiled graph depends on."""
        kind = (self.z_loss > 0, self.soft_cap > 0, self.norm_lookup, self.qk_norm)
        return self.n_embd, self.n_layers, self.seq_len, self.rows, *kind


class Lookup(nn.Embedding):
    """TokenEmbedding whose scale is a tensor, so that another scale needs no other graph."""

    def __init__(self, rows: int, dim: int, normed: bool) -> None:
        super().__init__(rows, dim)
        self.register_buffer("factor", torch.ones(()), persistent=False)
        self.normed, self.grad_scale = normed, 1.0

    def forward(self, input: Tensor) -> Tensor:
        """The rows of these ids, scaled."""
        rows = super().forward(input)
        return (F.rms_norm(rows, rows.shape[-1:]) if self.normed else rows) * self.factor


@dataclass
class Workshop:
    """A model of a shape with its compiled loss, initialised anew for every job."""

    model: LLaMaTransformer
    readout: nn.Parameter
    loss: Callable[..., tuple[Tensor, Tensor]]


def workshop(job: Job, device: str) -> Workshop:
    """Build and compile for a job's graph."""
    shape = {"n_embd": job.n_embd, "n_layers": job.n_layers, "n_heads": max(job.n_embd // 64, 1)}
    shape |= {"qk_norm": job.qk_norm, "multiple_of": 256, "max_seq_len": job.seq_len}
    model = LLaMaTransformer(ModelConfig(vocab_size=VOCAB_SIZE, **shape))
    model.embeddings = Lookup(VOCAB_SIZE, job.n_embd, job.norm_lookup)  # type: ignore[assignment]
    model.to(device)

    def loss(readout: Tensor, inputs: Tensor, targets: Tensor, z_loss: Tensor, cap: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(model.hidden(inputs), readout).float().flatten(0, 1)
        if job.soft_cap:
            logits = cap * torch.tanh(logits / cap)
        entropy = F.cross_entropy(logits, targets.flatten())
        if not job.z_loss:
            return entropy, entropy
        return entropy + z_loss * logits.logsumexp(-1).square().mean(), entropy

    compiled = loss if device == "cpu" else torch.compile(loss, dynamic=False)
    return Workshop(model, nn.Parameter(model.embeddings.weight.detach().clone()), compiled)


@torch.no_grad()
def initialise(job: Job, made: Workshop) -> None:
    """Draw every weight as the library does, then as the job says."""
    model, readout = made.model, made.readout
    device = readout.device
    draw = torch.Generator(device).manual_seed(job.seed)
    model.init_weights(draw)
    default = ModelConfig(vocab_size=VOCAB_SIZE, n_embd=job.n_embd, n_heads=1, tie_embeddings=job.tied)
    std = default.embedding_std if job.std is None else job.std
    table = model.embeddings.weight
    table.normal_(0.0, std, generator=draw)
    model.embeddings.factor.fill_(default.embedding_scale if job.scale is None else job.scale)  # type: ignore[operator]
    if job.tied:
        readout.data = table.data
    else:
        readout.data = torch.empty_like(table)
        readout_std = min(0.02, 0.5 / math.sqrt(job.n_embd)) if job.readout_std is None else job.readout_std
        readout.normal_(0.0, readout_std, generator=draw)
    if job.gain is not None:
        model.norm.weight.fill_(job.gain)
    for block in model.decoder_blocks:
        assert isinstance(block, DecoderBlock)
        for linear in (block.attention.o_proj, block.feed_forward.down_proj):
            if job.projections is not None:
                std = job.projections * 0.6 / math.sqrt(linear.in_features)
                linear.weight.normal_(0.0, std, generator=draw)
    last = model.decoder_blocks[-1].feed_forward
    if job.last_projections is not None:
        last.down_proj.weight.normal_(0.0, job.last_projections * 0.6 / math.sqrt(last.down_proj.in_features), generator=draw)
    if job.anti_copy is not None:
        last.down_proj.weight.copy_(-job.anti_copy * last.up_proj.weight.T)


class Tables:
    """The optimizer of a job, and what becomes of the two roles' gradients."""

    def __init__(self, job: Job, made: Workshop) -> None:
        self.job, self.table, self.readout = job, made.model.embeddings.weight, made.readout
        own = [*made.model.named_parameters()]
        matrices = [weight for name, weight in own if weight.dim() == 2 and name != "embeddings.weight"]
        gains = [weight for name, weight in own if weight.dim() < 2]
        self.weights = [weight for _, weight in own]
        betas = (0.9, job.beta2 if job.table_beta2 is None else job.table_beta2)
        kept = {"betas": betas, "weight_decay": job.table_decay, "eps": job.table_eps}
        readout_rate = job.table_rate if job.readout_rate is None else job.readout_rate
        self.readout_group = {"params": [self.readout], "rate": readout_rate, **kept}
        self.apart = job.roles or not job.tied
        groups = [
            {"params": matrices, "rate": job.rate, "weight_decay": job.decay},
            {"params": gains, "rate": job.rate if job.gain_rate is None else job.gain_rate},
            {"params": [self.table], "rate": job.table_rate, **kept},
            *([self.readout_group] if self.apart else []),
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=job.rate, betas=(0.9, job.beta2), weight_decay=0.0, fused=self.table.is_cuda
        )

    def step(self, at: int) -> Tensor:
        """Combine, clip, update; gives the gradient norm."""
        job = self.job
        table, readout = self.table, self.readout
        assert table.grad is not None and readout.grad is not None
        if job.input_grad != 1.0:
            table.grad *= job.input_grad
        if not self.apart:
            table.grad += readout.grad
            readout.grad = None
        norm = torch.nn.utils.clip_grad_norm_([*self.weights, *([readout] if self.apart else [])], 1.0)
        multiplier = lr_multiplier(at, job.steps, OptimizerConfig(warmup_steps=job.warmup, min_lr_ratio=0.1))
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * multiplier
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if job.untie_at is not None and at + 1 == round(job.untie_at * job.steps):
            self.untie()
        return norm

    def untie(self) -> None:
        """From here on two tables, alike in rows and moments."""
        self.readout.data = self.table.data.clone()
        if not self.apart:
            self.optimizer.add_param_group(self.readout_group)
            self.optimizer.state[self.readout] = {
                key: value.clone() for key, value in self.optimizer.state[self.table].items()
            }
            self.apart = True


def train(job: Job, made: Workshop, tokens: Tensor) -> dict[str, Any]:
    """Train one job and measure it."""
    began = time.perf_counter()
    initialise(job, made)
    tables = Tables(job, made)
    order = torch.Generator().manual_seed(job.seed)
    device = tokens.device
    extra = [torch.tensor(value, device=device) for value in (job.z_loss, job.soft_cap)]
    learnt = len(tokens) - HELD_OUT
    window = torch.arange(job.seq_len + 1, device=device)
    losses, norms, shares = [], [], []
    made.model.train()
    for at in range(job.steps):
        starts = torch.randint(0, learnt - job.seq_len - 1, (job.rows,), generator=order).to(device)
        rows = tokens[starts[:, None] + window].long()
        with torch.autocast(device.type, torch.bfloat16):
            loss, entropy = made.loss(made.readout, rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), *extra)
        loss.backward()
        if at in (0, job.steps // 10, job.steps - 1):
            shares.append([float(g.norm()) for g in (tables.table.grad, tables.readout.grad)])
        norms.append(tables.step(at))
        losses.append(entropy.detach())
    curve = torch.stack(losses)
    seconds = time.perf_counter() - began
    held_out, bands = evaluate(job, made, tokens)
    with torch.no_grad():
        table = tables.table.float()
        rms, mean_share = table.square().mean().sqrt(), table.mean(0).norm() / table.norm(dim=1).mean()
        final_gain = made.model.norm.weight.mean()
    return {
        **{key: value for key, value in asdict(job).items() if value != Job.__dict__.get(key)},
        "first": round(float(curve[0]), 3),
        "at_100": round(float(curve[100]), 3) if job.steps > 100 else None,
        "largest_norm": round(float(torch.stack(norms).max()), 1),
        "held_out": round(held_out, 4),
        "bands": [[round(loss, 3), round(share, 4)] for loss, share in bands],
        "gradients": [[float(f"{one:.3g}") for one in pair] for pair in shares],
        "table_rms": round(float(rms), 4),
        "mean_share": round(float(mean_share), 3),
        "final_gain": round(float(final_gain), 3),
        "seconds": round(seconds, 1),
        "curve": [round(float(part.mean()), 3) for part in curve.split(EVERY)],
    }


@torch.no_grad()
def evaluate(job: Job, made: Workshop, tokens: Tensor) -> tuple[float, list[tuple[float, float]]]:
    """Loss on the held-out tokens, whole and by how often a target occurs in the training text, with its share."""
    counts = torch.bincount(tokens[:-HELD_OUT].long(), minlength=VOCAB_SIZE)
    edges = torch.tensor(BANDS[1:], device=tokens.device)
    windows = tokens[-HELD_OUT:][: HELD_OUT // (job.seq_len + 1) * (job.seq_len + 1)].view(-1, job.seq_len + 1).long()
    total = torch.zeros(len(BANDS), 2, dtype=torch.float64, device=tokens.device)
    for rows in windows.split(job.rows):
        with torch.autocast(tokens.device.type, torch.bfloat16):
            logits = F.linear(made.model.hidden(rows[:, :-1].contiguous()), made.readout)
        targets = rows[:, 1:].flatten()
        logits = logits.flatten(0, 1).float()
        if job.soft_cap:
            logits = job.soft_cap * torch.tanh(logits / job.soft_cap)
        losses = F.cross_entropy(logits, targets, reduction="none").double()
        band = torch.bucketize(counts[targets], edges, right=True)
        total[:, 0].index_add_(0, band, losses)
        total[:, 1].index_add_(0, band, torch.ones_like(losses))
    sums, sizes = total.T.tolist()
    bands = [(loss / max(size, 1), size / sum(sizes)) for loss, size in zip(sums, sizes, strict=True)]
    return sum(sums) / sum(sizes), bands


def work(device: str, queue: list[Job], lock: Any, options: argparse.Namespace, ends: float) -> None:
    """Take jobs until none is left that can end in time, those of the graph in hand first."""
    if device != "cpu":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    tokens = torch.from_numpy(np.fromfile(options.tokens, dtype=np.uint16).astype(np.int32)).to(device)
    made: Workshop | None = None
    graph: tuple[Any, ...] | None = None
    pace: dict[tuple[Any, ...], float] = {}
    while True:
        with lock:
            waiting = sorted(range(len(queue)), key=lambda at: queue[at].graph != graph)
            fitting = (at for at in waiting if time.time() + queue[at].steps * pace.get(queue[at].graph, 0) < ends)
            at = next(fitting, None)
            if at is None:
                return
            job = queue.pop(at)
        if job.graph != graph:
            made, graph = None, job.graph
            torch._dynamo.reset()
            made = workshop(job, device)
        assert made is not None
        began = time.time()
        try:
            row = train(job, made, tokens)
            pace[graph] = min(pace.get(graph, math.inf), row["seconds"] / job.steps)
        except Exception as error:  # noqa: BLE001 - one failed run must not end the others
            row = {"name": job.name, "error": repr(error)[:300]}
        row["wall"] = round(time.time() - began, 1)
        with lock, open(options.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps({k: v for k, v in row.items() if k not in ("curve", "bands", "gradients")}), flush=True)


def run(options: argparse.Namespace) -> None:
    """All jobs, on all GPUs."""
    ends = time.time() + 60 * options.minutes
    known = {field.name for field in fields(Job)}
    jobs = []
    for line in Path(options.jobs).read_text(encoding="utf-8").splitlines():
        wanted = json.loads(line)
        seeds = wanted.pop("seeds", [wanted.pop("seed", 0)])
        assert wanted.keys() <= known, wanted.keys() - known
        jobs += [Job(seed=seed, **wanted) for seed in seeds]
    gpus = torch.cuda.device_count()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue, lock = manager.list(jobs), manager.Lock()
        devices = [f"cuda:{at}" for at in range(gpus)] or ["cpu"]
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
    np.concatenate(ids)[-30_000_000:].tofile(options.tokens)


def main() -> None:
    """Prepare tokens, or run jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tokens = commands.add_parser("tokens")
    tokens.add_argument("text", nargs="+")
    running = commands.add_parser("run")
    running.add_argument("jobs")
    running.add_argument("--out", required=True)
    running.add_argument("--minutes", type=float, default=60.0)
    for command in (tokens, running):
        command.add_argument("--tokens", required=True)
    options = parser.parse_args()
    (prepare if options.command == "tokens" else run)(options)


if __name__ == "__main__":
    main()
