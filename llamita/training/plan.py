"""What a configuration costs before anything is built: parameters, memory, floating-point operations, time."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from llamita.config import ModelConfig, RunConfig
from llamita.model.block import DecoderBlock
from llamita.model.cpu_attention import kept_weights
from llamita.model.loss import DEVICE_CHUNK_VALUES, DEVICE_CHUNKS, hidden_loss
from llamita.training.hardware import autocast
from llamita.training.recording import can_capture, captured

_MANY_EPOCHS = 4
_LARGE_TABLE_SHARE = 0.4
_PROBE_TOKENS, _GPU_PROBE_TOKENS = 1024, 16384  # of fewer, a GPU only waits for Python


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by kind; their sum is exactly the model's."""
    dim, layers = config.n_embd, config.n_layers
    heads, kv_heads = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return {
        "embeddings": config.vocab_size * dim,
        "head": 0 if config.tie_embeddings else config.vocab_size * dim,
        "positions": config.max_seq_len * dim if config.positions == "learned" else 0,
        "attention": layers * dim * 2 * (heads + kv_heads),
        "feed_forward": layers * 3 * dim * config.ffn_dim,
        "norms": (2 * layers + 1) * dim + (2 * layers * config.head_dim if config.qk_norm else 0),
    }


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of a training step a token: 6 a matrix weight, and the causal half of attention."""
    parameters = count_parameters(config)
    matrices = parameters["attention"] + parameters["feed_forward"] + config.vocab_size * config.n_embd
    attention = config.n_layers * config.max_seq_len * config.n_heads * config.head_dim
    return 6 * matrices + 6 * attention


def training_memory(config: RunConfig) -> int:
    """Estimated bytes at the peak of a training step, without what Python and torch need themselves."""
    if config.training.device == "cpu":
        return _cpu_memory(config)
    model, training = config.model, config.training
    tokens, item = training.micro_batch_size * model.max_seq_len, _item(config)
    parameters = sum(count_parameters(model).values())
    # Weights and two moments in fp32, and a copy that products take. Gradients come as activations go.
    weights = (12 + (1 if training.precision == "fp8" else item)) * parameters
    logits = max(tokens * model.vocab_size // DEVICE_CHUNKS, min(tokens * model.vocab_size, DEVICE_CHUNK_VALUES))
    feed_forward = 3 * tokens * model.ffn_dim  # gradients of the network that the backward pass is at
    ends = 4 * item * tokens * model.n_embd + (4 + item) * model.vocab_size * model.n_embd
    return weights + _layers(config, _kept_on_gpu(config)) + item * max(logits, feed_forward) + ends


def _cpu_memory(config: RunConfig) -> int:
    """The same on a CPU: with gradients, and the copy of weights and moments that is saved while training goes on."""
    model, training = config.model, config.training
    tokens, item = training.micro_batch_size * model.max_seq_len, _item(config)
    parameters = sum(count_parameters(model).values())
    weights = (16 + 12 + (item if item == 2 else 0)) * parameters
    heads, kv_heads = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    kept = 4 * 4 * model.n_embd + item * (4 * model.n_embd + 3 * heads + 2 * kv_heads + 4 * model.ffn_dim)
    scores = item * model.n_heads * kept_weights(model.max_seq_len) // model.max_seq_len
    return weights + _layers(config, kept + scores) + 8 * min(tokens * model.vocab_size, 1 << 20)


def _item(config: RunConfig) -> int:
    """Bytes of a value that products compute with, as far as it is stored."""
    return 4 if config.training.precision == "fp32" else 2


def _layers(config: RunConfig, kept: int) -> int:
    """What all layers keep for the backward pass, of so many bytes each a token."""
    model, training = config.model, config.training
    again = min(training.recompute_layers, model.n_layers)
    # Of blocks that are computed again only their inputs are kept, but for the one that is at it.
    inputs = again * _item(config) * model.n_embd + (kept if again else 0)
    return training.micro_batch_size * model.max_seq_len * ((model.n_layers - again) * kept + inputs)


def _kept_on_gpu(config: RunConfig) -> int:
    """Bytes a token that a layer keeps on a GPU."""
    model, item = config.model, _item(config)
    heads, kv_heads = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    # The stream before and after attention; queries, keys, values and what they found; gates and ups.
    values = 2 * model.n_embd + 2 * heads + 2 * kv_heads + 2 * model.ffn_dim
    # What products took: the stream normalised twice, what attention found, what the gates let through.
    if config.training.precision == "fp8":
        factors = 2 * model.n_embd + heads + model.ffn_dim
    else:
        factors = item * (2 * model.n_embd + model.ffn_dim)
    # Without a compiler both norms keep their input in fp32.
    wide = 0 if config.training.compile else 2 * 4 * model.n_embd
    return item * values + factors + wide


@torch.enable_grad()
def seconds_per_step(config: RunConfig) -> float:
    """Estimated time of an optimizer step on this machine: one layer and the loss are run and scaled up.

    On a GPU they are recorded first, as the steps of models are that would wait for Python otherwise.
    """
    # The probe's random numbers must not move those of a run that is about to start.
    gpus = [torch.cuda.current_device()] if config.training.device == "cuda" else []
    with torch.random.fork_rng(gpus):
        if not gpus:
            return _probed_seconds(config, _PROBE_TOKENS)
        try:
            with contextlib.suppress(torch.OutOfMemoryError):
                return _probed_seconds(config, _GPU_PROBE_TOKENS)
            torch.cuda.empty_cache()
            return _probed_seconds(config, _PROBE_TOKENS)
        finally:
            torch.cuda.empty_cache()  # of recordings, which nothing else may use


def _probed_seconds(config: RunConfig, most: int) -> float:
    model, training = config.model, config.training
    rows = max(min(most // model.max_seq_len, training.micro_batch_size), 1)
    seq_len = min(model.max_seq_len, most)
    device = torch.device(training.device)
    block = DecoderBlock(model, 0).to(device)
    x = torch.randn(rows, seq_len, model.n_embd, device=device, requires_grad=True)
    table = torch.randn(model.vocab_size, model.n_embd, device=device, requires_grad=True)
    targets = torch.zeros(rows, seq_len, dtype=torch.long, device=device)
    angle = torch.zeros(seq_len, model.head_dim // 2, device=device)
    rope = (angle.cos(), angle.sin()) if model.positions == "rope" else None

    def layer() -> torch.Tensor:
        y: torch.Tensor = block(x, rope)
        return y.float().sum()

    def head() -> torch.Tensor:
        return hidden_loss(x if training.precision == "fp32" else x.to(torch.bfloat16), table, targets, tokens=1)

    def taught(work: Callable[[], torch.Tensor]) -> torch.Tensor:
        with autocast(training.device, training.precision):
            loss = work()
        loss.backward()
        return loss.detach()

    def timed(work: Callable[[], torch.Tensor]) -> float:
        once = partial(taught, work)
        again: Callable[[], object] = once
        if can_capture(device):
            for _ in range(2):
                once()
            with contextlib.suppress(RuntimeError):  # it is timed as it is, as such steps are taken
                again, _ = captured(once, torch.cuda.graph_pool_handle())
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            again()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    times = model.n_layers * timed(layer) + timed(head)
    return times * config.tokens_per_step / (rows * seq_len)


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a run."""

    parameters: dict[str, int]
    tokens_per_step: int
    steps: int
    tokens: int
    epochs: float | None
    flops: float
    memory_bytes: int
    seconds: float
    warnings: tuple[str, ...]


def make_plan(config: RunConfig, corpus_tokens: int | None = None) -> Plan:
    """Parameters, memory, operations and time of a run, with what there is to warn of."""
    parameters = count_parameters(config.model)
    tokens = config.training.steps * config.tokens_per_step
    epochs = tokens / corpus_tokens if corpus_tokens else None
    return Plan(
        parameters=parameters,
        tokens_per_step=config.tokens_per_step,
        steps=config.training.steps,
        tokens=tokens,
        epochs=epochs,
        flops=float(tokens * flops_per_token(config.model)),
        memory_bytes=training_memory(config),
        seconds=config.training.steps * seconds_per_step(config),
        warnings=tuple(_warnings(parameters, epochs)),
    )


def _warnings(parameters: dict[str, int], epochs: float | None) -> list[str]:
    warnings = []
    if epochs is not None and epochs > _MANY_EPOCHS:
        warnings.append(
            f"the text is read {epochs:.1f} times; beyond about {_MANY_EPOCHS} epochs repeated text teaches less "
            "and less (arXiv 2305.16264): more text, or fewer --training.steps"
        )
    share = (parameters["embeddings"] + parameters["head"]) / sum(parameters.values())
    if share > _LARGE_TABLE_SHARE:
        warnings.append(
            f"{share:.0%} of the parameters are in the table{'s' if parameters['head'] else ''}; "
            "a smaller --tokenizer.vocab-size or more --model.n-layers would use them better"
        )
    return warnings
