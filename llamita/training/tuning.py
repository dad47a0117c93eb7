"""What is picked by measurement before a run begins; config.toml keeps it, and a resumed run obeys it."""

import contextlib
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from llamita import layers
from llamita.config import AttentionKernel, RunConfig
from llamita.training.plan import flops_per_token, seconds_per_step, training_memory
from llamita.training.sizes import PICKED, THIS_MACHINE

_log = logging.getLogger(__name__)

Notify = Callable[[str], None]
Probe = Callable[[RunConfig], float | None]

_KERNELS: dict[AttentionKernel, SDPBackend] = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_TIMED, _REPEATS = 3, 10
_PROBED_TOKENS = 16384
# Larger micro-batches than this bring nothing on an H200 (docs/log.md, 2026-11-27).
_MOST_TOKENS = 1 << 16
# A probe compiles the model, and the whole search takes some minutes: for a run that takes less it isn't worth it.
_WORTH_FLOPS = 2e17
_ROOM = 0.5  # of the memory that a run may take by the estimate before its micro-batch is tried out
_BETTER = 0.98
# On a CPU, where measurements scatter and the same answer twice is worth something.
_CLEARLY_BETTER, _PASSES = 0.8, 3
_PROBE_SECONDS = 600


@contextlib.contextmanager
def pinned(kernel: AttentionKernel) -> Iterator[None]:
    """The context in which scaled_dot_product_attention takes this kernel wherever it can, and others elsewhere."""
    if kernel in ("auto", "torch"):
        yield
        return
    first = _KERNELS[kernel]
    others = [backend for backend in _KERNELS.values() if backend is not first]
    # A graph that was compiled with another kernel, and kept, mustn't be taken for this one's.
    tag = torch.compiler.config.cache_key_tag
    torch.compiler.config.cache_key_tag = f"{tag} {kernel}"
    try:
        with sdpa_kernel([first, *others], set_priority=True):
            yield
    finally:
        torch.compiler.config.cache_key_tag = tag


def tuned(config: RunConfig, origin: Mapping[str, str], notify: Notify) -> RunConfig:
    """The config with what nobody asked for measured: attention kernel and micro-batch, or threads and precision.

    origin: the name of the layer that each setting comes from.
    """
    config = quickly_tuned(config, origin, notify)
    if config.training.device != "cuda":
        return config
    asked = origin.get("training.micro_batch_size", "default")
    free = asked in ("default", PICKED, THIS_MACHINE) or asked.startswith("preset ")
    if not free or not _worth_trying(config):
        return config
    notify("trying micro-batches, each in a process of its own: some minutes")
    rows, tried = find_micro_batch(config, seconds_per_token)
    if tried:
        told = ", ".join(f"{one} rows {1 / seconds:,.0f} tok/s" for one, seconds in sorted(tried.items()))
        notify(f"micro-batch: {rows} rows, the best here of {told}")
    else:
        notify("no trial of a micro-batch went well; --training.recompute-layers N takes less memory")
    return replace(config, training=replace(config.training, micro_batch_size=rows))


def quickly_tuned(config: RunConfig, origin: Mapping[str, str], notify: Notify) -> RunConfig:
    """The part of `tuned` that takes no more than a few seconds: all but the micro-batch."""
    config = with_attention(config, notify)
    return _tuned_to_cpu(config, origin, notify) if config.training.device == "cpu" else config


def with_attention(config: RunConfig, notify: Notify) -> RunConfig:
    """The config with the attention kernel that is the fastest here, where it is "auto"."""
    training = config.training
    if training.attention != "auto":
        return config
    # Documents told by their starts go to a kernel of their own.
    speeds = attention_seconds(config) if training.device == "cuda" and not config.data.mask_documents else {}
    fastest: AttentionKernel = "torch"
    if speeds:
        fastest = min(speeds, key=lambda kernel: speeds[kernel])
        told = ", ".join(f"{kernel} {1000 * seconds:.2f} ms" for kernel, seconds in speeds.items())
        notify(f"attention: {fastest}, the fastest here of {told} a layer")
    return replace(config, training=replace(training, attention=fastest))


def _tuned_to_cpu(config: RunConfig, origin: Mapping[str, str], notify: Notify) -> RunConfig:
    """Fewer threads, or fp32, where a layer and the loss are clearly faster so than by the rule of `hardware`."""
    training = config.training
    free = {name for name in ("threads", "precision") if origin.get(f"training.{name}") == THIS_MACHINE}
    threads = [n for n in (training.threads // 2, 1) if "threads" in free and 0 < n < training.threads]
    others = [replace(training, threads=n) for n in dict.fromkeys(threads)]
    if "precision" in free and training.precision == "bf16":
        others.append(replace(training, precision="fp32"))
    if not others:
        return config
    before = torch.get_num_threads()
    wins = {one: True for one in others}
    try:
        for _ in range(_PASSES):
            # Interleaved, and more than once: what else the machine does mustn't decide for the whole run.
            seconds = {one: _seconds(replace(config, training=one)) for one in (training, *others)}
            wins = {one: wins[one] and seconds[one] < _CLEARLY_BETTER * seconds[training] for one in others}
            if not any(wins.values()):
                break
    finally:
        torch.set_num_threads(before)
    best = min((one for one in others if wins[one]), key=lambda one: seconds[one], default=training)
    if best is not training:
        named = [f"{one.threads} threads in {one.precision} {taken:.3g} s" for one, taken in seconds.items()]
        notify(f"a step by a probe: {', '.join(named)}")
    return replace(config, training=best)


def _seconds(config: RunConfig) -> float:
    torch.set_num_threads(config.training.threads)
    return seconds_per_step(config)


def _worth_trying(config: RunConfig) -> bool:
    room = _ROOM * torch.cuda.get_device_properties(0).total_memory
    flops = config.training.steps * config.tokens_per_step * flops_per_token(config.model)
    return flops > _WORTH_FLOPS or training_memory(config) > room


def attention_seconds(config: RunConfig) -> dict[AttentionKernel, float]:
    """Seconds of causal attention of one layer, forward and back, by each kernel that takes this model's heads."""
    model, training = config.model, config.training
    rows = max(min(training.micro_batch_size, _PROBED_TOKENS // model.max_seq_len), 1)
    on_gpu = training.device == "cuda"
    dtype = torch.float32 if training.precision == "fp32" else torch.bfloat16
    shapes = [(rows, model.max_seq_len, heads, model.head_dim) for heads in (model.n_heads, *2 * (model.n_kv_heads,))]
    found: dict[AttentionKernel, float] = {}
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says why a kernel doesn't run
        inputs = [torch.randn(shape, device=training.device, dtype=dtype, requires_grad=True) for shape in shapes]
        for name, backend in _KERNELS.items():
            # The last one, plain products, has all scores in memory: only if no other runs.
            if name == "math" and found:
                continue
            with contextlib.suppress(RuntimeError), sdpa_kernel([backend]):
                found[name] = min(_seconds_of_attention(inputs) for _ in range(_TIMED))
    del inputs
    if on_gpu:
        torch.cuda.empty_cache()  # for the trials of micro-batches, which are other processes
    return found


def _seconds_of_attention(inputs: list[torch.Tensor]) -> float:
    on_gpu = inputs[0].device.type == "cuda"
    for repeat in range(-2, _REPEATS):
        if repeat == 0:
            if on_gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
        q, k, v = (x.transpose(1, 2) for x in inputs)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        torch.autograd.grad(mixed, inputs, mixed)
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / _REPEATS


def find_micro_batch(config: RunConfig, probe: Probe) -> tuple[int, dict[int, float]]:
    """The number of rows at a time that trains fastest, and seconds a token for those that were tried and fit.

    From the config's own it goes down until one fits, or up while that is worth it: a larger one must be 2 % faster.
    probe: seconds a token of a config, or None for one that needs more memory than there is.
    """
    training = config.training
    most = max(_MOST_TOKENS // config.model.max_seq_len, 1)
    options = [n for n in micro_batches(config) if n <= most]
    start = max((at for at, n in enumerate(options) if n <= training.micro_batch_size), default=0)
    tried: dict[int, float] = {}

    def fits(at: int) -> bool:
        rows = options[at]
        seconds = probe(replace(config, training=replace(training, batch_size=rows, micro_batch_size=rows)))
        if seconds is not None:
            tried[rows] = seconds
        return seconds is not None

    at = next((at for at in range(start, -1, -1) if options and fits(at)), None)
    if at is None:
        return training.micro_batch_size, {}
    if at == start:
        while at + 1 < len(options) and fits(at + 1) and tried[options[at + 1]] < _BETTER * tried[options[at]]:
            at += 1
        if at == start > 0 and fits(at - 1) and tried[options[at - 1]] < tried[options[at]]:
            at -= 1
    return options[at], tried


def micro_batches(config: RunConfig) -> list[int]:
    """The numbers of rows that a step's may be taken by, as RunConfig allows them."""
    training = config.training
    even = 16 if training.precision == "fp8" else 1
    return [
        n
        for n in range(1, training.batch_size + 1)
        if training.batch_size % n == 0 and n * config.model.max_seq_len % even == 0
    ]


def seconds_per_token(config: RunConfig) -> float | None:
    """What a trial of a config takes, in a process of its own that may fail or die of it; None if it did.

    Anything else than a lack of memory is logged: it would befall a smaller micro-batch, too.
    """
    # -P: nothing in the folder that we are in may pass for a module.
    command = [sys.executable, "-P", "-m", "llamita.training.trial"]
    try:
        told = subprocess.run(
            command, input=layers.to_toml(config), capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True
        )
        found = json.loads(told.stdout.splitlines()[-1])["seconds_per_token"]
    except (subprocess.SubprocessError, OSError, ValueError, LookupError, TypeError) as error:
        said = (getattr(error, "stderr", None) or repr(error)).strip().splitlines()
        _log.warning("a trial with %d rows at a time failed: %s", config.training.micro_batch_size, said[-1:])
        return None
    return None if found is None else float(found)
