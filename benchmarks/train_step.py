"""Training tokens a second on one GPU, llamita against rivals at their best effort.

    python benchmarks/train_step.py --shape 124m --against litgpt,hf --rounds 3

Every candidate has a process of its own, which compiles once; then they take turns, a round each, and what isn't
measuring waits in host memory. All get the same weights at first, the same batches and the same optimizer, so their
losses must agree. Each then chooses among `--rows` the batch that it is fastest with. Prints one JSON line a candidate
and round, then one with medians, spread and ratios. Rivals are those that are installed.
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from llamita.config import ModelConfig, OptimizerConfig, RunConfig, TrainingConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.training.compiling import loss_function
from llamita.training.evaluate import DeviceBatch
from llamita.training.guard import Guard
from llamita.training.loop import train_step
from llamita.training.optimizer import build_optimizer

LR, BETAS, EPS, CLIP = 3e-4, (0.9, 0.95), 1e-8, 1.0
WARMUP_STEPS = 6
PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200: https://www.nvidia.com/en-us/data-center/h100/


@dataclass(frozen=True)
class Shape:
    """A model's shape, untied, and the numbers of rows a step that candidates may choose among."""

    vocab_size: int
    n_embd: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    seq_len: int
    rows: tuple[int, ...]

    @property
    def flops_per_token(self) -> float:
        """Forward and back, causal attention counted once, the lookup not at all."""
        kv = self.n_kv_heads * self.n_embd // self.n_heads
        block = 2 * self.n_embd**2 + 2 * self.n_embd * kv + 3 * self.n_embd * self.ffn_dim
        products = self.n_layers * block + self.vocab_size * self.n_embd
        return 6 * products + 6 * self.n_layers * self.n_embd * self.seq_len


SHAPES = {
    "tiny": Shape(512, 64, 2, 2, 1, 192, 64, (2, 4)),  # to try the script on a CPU
    "30m": Shape(16384, 384, 12, 6, 6, 1024, 512, (64, 128, 256)),
    "124m": Shape(32768, 768, 12, 12, 12, 2048, 1024, (32, 64)),
    "1b": Shape(32000, 2048, 22, 32, 4, 5632, 2048, (8, 16)),
}

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Candidate:
    """A model that trains: `step` takes inputs and targets and gives the loss, which may still be on its way."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step


def configured(shape: Shape, device: str) -> RunConfig:
    """llamita's configuration of a shape."""
    model = ModelConfig(
        vocab_size=shape.vocab_size,
        n_embd=shape.n_embd,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        ffn_dim=shape.ffn_dim,
        max_seq_len=shape.seq_len,
        tie_embeddings=False,
        embedding_std=15.36 / shape.n_embd,  # at which the table's rate is that of the matrices
    )
    optimizer = OptimizerConfig(lr=LR, table_lr_ratio=1.0, betas=BETAS, eps=EPS, weight_decay=0.0, clip=CLIP)
    training = TrainingConfig(steps=1, device="cuda" if device == "cuda" else "cpu", precision="bf16", compile=True)
    return RunConfig(model=model, optimizer=optimizer, training=training)


def initial(shape: Shape) -> LLaMaTransformer:
    """llamita's model, drawn from seed 0; no product starts at zero, so that every part counts at once."""
    torch.manual_seed(0)
    model = LLaMaTransformer(configured(shape, "cpu").model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and not weight.any():
                weight.normal_(0, 0.02 / (2 * shape.n_layers) ** 0.5)
    return model


def llamita(shape: Shape, device: str) -> Candidate:
    """The library's own step, with its guard."""
    config = configured(shape, device)
    model = initial(shape).to(device)
    optimizer = build_optimizer(model, config.optimizer)
    guard, loss = Guard(torch.device(device), config.training.max_z_score), loss_function(config.training)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        batch = DeviceBatch(inputs, targets, None)
        return train_step(model, optimizer, [(batch, targets.numel())], config, guard, loss)[0]

    return Candidate(model, optimizer, step)


def rival(model: nn.Module, device: str, loss_of: Step) -> Candidate:
    """What a training loop around somebody else's model does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return Candidate(model, optimizer, step)


def hf(shape: Shape, device: str) -> Candidate:
    """transformers' LlamaForCausalLM, compiled."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.n_embd,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        intermediate_size=shape.ffn_dim,
        max_position_embeddings=shape.seq_len,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(dict(hf_names(initial(shape))))
    model = model.to(device)
    compiled = torch.compile(model, dynamic=False)

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        # shift_labels: the targets position for position.
        loss: Tensor = compiled(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss
        return loss

    return rival(model, device, loss_of)


def hf_names(model: LLaMaTransformer) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of LlamaForCausalLM."""
    parts = {
        "attention_norm": "input_layernorm",
        "attention": "self_attn",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward": "mlp",
    }
    for name, weight in model.state_dict().items():
        if name.startswith("decoder_blocks."):
            _, layer, part, *rest = name.split(".")
            yield ".".join(["model.layers", layer, parts[part], *rest]), weight
        else:
            yield (
                {"embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}.get(name, name),
                weight,
            )


def litgpt(shape: Shape, device: str) -> Candidate:
    """litgpt's GPT, compiled, with the loss of its pretraining."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        name="bench",
        block_size=shape.seq_len,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_query_groups=shape.n_kv_heads,
        n_embd=shape.n_embd,
        intermediate_size=shape.ffn_dim,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=1e-5,
    )
    model = GPT(config)
    model.load_state_dict(litgpt_weights(initial(shape)), strict=False)
    model = model.to(device)

    def whole(inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = chunked_cross_entropy(model(inputs), targets, chunk_size=0)
        return loss

    return rival(model, device, torch.compile(whole, dynamic=False))


def litgpt_weights(model: LLaMaTransformer) -> dict[str, Tensor]:
    """The weights under litgpt's names; its qkv holds queries, then keys, then values."""
    given = model.state_dict()
    found = {
        "transformer.wte.weight": given["embeddings.weight"],
        "transformer.ln_f.weight": given["norm.weight"],
        "lm_head.weight": given["lm_head.weight"],
    }
    for layer in range(model.config.n_layers):
        block, here = f"decoder_blocks.{layer}.", f"transformer.h.{layer}."
        found[here + "attn.qkv.weight"] = torch.cat([given[f"{block}attention.{x}_proj.weight"] for x in "qkv"])
        found[here + "attn.proj.weight"] = given[block + "attention.o_proj.weight"]
        found[here + "norm_1.weight"] = given[block + "attention_norm.weight"]
        found[here + "norm_2.weight"] = given[block + "feed_forward_norm.weight"]
        for ours, theirs in (("gate_proj", "fc_1"), ("up_proj", "fc_2"), ("down_proj", "proj")):
            found[f"{here}mlp.{theirs}.weight"] = given[f"{block}feed_forward.{ours}.weight"]
    return found


CANDIDATES = {"llamita": llamita, "hf": hf, "litgpt": litgpt}


class Bench:
    """A candidate with its batch, measured in rounds, and in host memory between them."""

    def __init__(self, name: str, shape: Shape, rows: int, device: str) -> None:
        self.name, self.shape, self.rows, self.device = name, shape, rows, device
        began = time.perf_counter()
        self.candidate = CANDIDATES[name](shape, device)
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
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        speed = steps * self.rows * self.shape.seq_len / self.run(steps)
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0.0
        return {
            "candidate": self.name,
            "rows": self.rows,
            "tokens_per_second": round(speed),
            "mfu": round(speed * self.shape.flops_per_token / PEAK_FLOPS, 3),
            "peak_gib": round(memory, 1),
        }

    def move(self, device: str) -> None:
        """Weights and moments to a device; what is compiled stays."""
        moments = [value for state in self.candidate.optimizer.state.values() for value in state.values()]
        for tensor in [*self.candidate.model.parameters(), *(one for one in moments if isinstance(one, Tensor))]:
            if tensor.dim() > 0:
                tensor.data = tensor.data.to(device)
        if self.device == "cuda":
            torch.cuda.empty_cache()


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


def serve(name: str, shape: Shape, device: str, steps: int, pipe: Connection, attention: str) -> None:
    """Measure a round whenever asked; an exception ends it."""
    torch.set_float32_matmul_precision("high")
    try:
        with attention_backend(attention, device):
            bench, told = fastest(name, shape, device, steps)
            pipe.send(told)
            while pipe.recv() == "round":
                bench.move(device)
                bench.run(2)
                row = bench.round(steps)
                bench.move("cpu")
                pipe.send(row)
    except Exception as error:
        pipe.send({"candidate": name, "error": f"{type(error).__name__}: {error}"[:400]})


def attention_backend(name: str, device: str) -> contextlib.AbstractContextManager[None]:
    """The kernel that scaled_dot_product_attention prefers."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device == "cpu" or name == "auto":
        return contextlib.nullcontext()
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if name == "flash":
        order = order[1:]
    return sdpa_kernel(order, set_priority=True)


def main() -> None:
    """Start the candidates one after the other, then let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="124m")
    parser.add_argument("--against", default="litgpt,hf", help="rivals, with commas; none: an empty string")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rows", help="numbers of rows to choose among, with commas, instead of the shape's")
    parser.add_argument("--attention", choices=("cudnn", "flash", "auto"), default="cudnn")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES[options.shape]
    if options.rows:
        shape = replace(shape, rows=tuple(int(rows) for rows in options.rows.split(",")))
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    losses: dict[str, list[float]] = {}
    for name in ["llamita", *filter(None, options.against.split(","))]:
        here, there = context.Pipe()
        arguments = (name, shape, device, options.steps, there, options.attention)
        context.Process(target=serve, args=arguments, daemon=True).start()
        said = here.recv()
        print(json.dumps(said), flush=True)
        if "error" not in said:
            pipes[name] = here
            losses[name] = said["losses"]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in pipes}
    for number in range(options.rounds):
        for name, pipe in pipes.items():
            pipe.send("round")
            row = pipe.recv()
            print(json.dumps({"round": number, "shape": options.shape, **row}), flush=True)
            if "error" not in row:
                rows[name].append(row)
    for pipe in pipes.values():
        pipe.send("end")
    print(json.dumps({"shape": options.shape, **summary(device, rows), "loss_differences": differences(losses)}))
    if "llamita" not in pipes:
        sys.exit(1)


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
