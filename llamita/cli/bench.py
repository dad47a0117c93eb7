"""`llamita bench`."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from llamita import layers
from llamita.cli.console import count, duration, live_line, narrator, out, print_json
from llamita.cli.settings import Settings
from llamita.cli.show import ASSUMED_BYTES, resolved
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError
from llamita.runs.folder import Run
from llamita.training.compiling import why_not_compiled
from llamita.training.hardware import choose_hardware
from llamita.training.plan import count_parameters, seconds_per_step
from llamita.training.trial import IDLE, Measured
from llamita.training.trial import measure as try_out
from llamita.training.tuning import quickly_tuned


def bench(
    run: Path | None = None,
    *,
    settings: Settings = Settings(),
    seconds: float = 10.0,
    profile: Path | None = None,
    json: bool = False,
) -> None:
    """Train on random tokens for a few seconds: tokens a second, memory, where the time goes, and what would help.

    Nothing is written but the profile, and compiled graphs where they are kept.
    Example: llamita bench --preset 124m --profile trace.json

    Parameters
    ----------
    run
        A run's folder, whose configuration is tried.
    seconds
        How long to measure, after the start.
    profile
        A file for the trace of two steps, which https://ui.perfetto.dev opens.
    json
        Print one JSON object.
    """
    if not 0 < seconds <= 3600:
        raise UsageError(f"--seconds {seconds}: give more than 0 and at most 3600")
    if profile is not None and (profile.exists() or not profile.parent.is_dir()):
        raise UsageError(f"--profile {profile}: give a file that isn't there yet, in a folder that is")
    config = in_time(_asked_for(run, settings, narrator(json).print), seconds, narrator(json).print)
    with live_line(narrator(json)) as line:
        try:
            found = try_out(config, seconds=seconds, trace=profile, progress=line.show)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{_batch(config)} need more memory than {config.training.device} has: give a smaller "
                "--training.micro-batch-size, or --training.recompute-layers"
            ) from error
    if json:
        print_json({**asdict(found), "tokens_per_second": found.tokens_per_second})
        return
    for name, value in _rows(config, found).items():
        out.print(f"{name:14} {value}")
    out.print("where the time goes")
    for kind, share in found.shares.items():
        out.print(f"  {kind:32} {share:6.1%}  {1000 * share * found.seconds_per_step:10.2f} ms")
    for hint in advice(config, found):
        out.print(f"advice: {hint}")
    if profile is not None:
        out.print(f"trace: {profile}; open it at https://ui.perfetto.dev")


def _asked_for(run: Path | None, settings: Settings, notify: Callable[[str], None]) -> RunConfig:
    """A run's configuration, or what training would begin with, but for a micro-batch found by trials."""
    if run is None:
        return quickly_tuned(*resolved(settings, ASSUMED_BYTES), notify)
    if layers.merge(settings.asked())[1]:
        raise UsageError("give --run or settings: a run is tried as it is")
    config = Run.open(run).config()
    choose_hardware(config.training.device, config.training.precision)  # a run may come from another machine
    return config


def in_time(config: RunConfig, seconds: float, notify: Callable[[str], None]) -> RunConfig:
    """The config with fewer rows a step where one of its own would take longer than all is to take."""
    training = config.training
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(training.threads)
        estimate = 0.0 if training.device == "cuda" else seconds_per_step(config)
    finally:
        torch.set_num_threads(threads)
    rows = max(int(training.batch_size * seconds / estimate), 1) if estimate > seconds else training.batch_size
    if rows == training.batch_size:
        return config
    rows = min(rows, training.micro_batch_size)
    notify(f"a step of {training.batch_size} rows takes about {duration(estimate)} here: measured with {rows} instead")
    return replace(config, training=replace(training, batch_size=rows, micro_batch_size=rows))


def _batch(config: RunConfig) -> str:
    training, pieces = config.training, config.training.accumulation
    parts = f", in {pieces} parts" if pieces > 1 else ""
    return f"{training.batch_size} rows of {config.model.max_seq_len} tokens a step{parts}"


def _rows(config: RunConfig, found: Measured) -> dict[str, str]:
    reached = f"{found.flops_per_second / 1e12:.3g} TFLOP/s of the model, {_share(found, found.product_flops)} of the "
    reached += f"{found.product_flops / 1e12:.3g} that one large product reaches here"
    if found.data_sheet_flops is not None:
        reached += f", {_share(found, found.data_sheet_flops)} of its data sheet's in dense bf16 (MFU)"
    # There the process with its libraries is what can be measured.
    estimated = "estimated for a run that also saves" if config.training.device == "cpu" else "estimated"
    return {
        "on": f"{found.device}, {found.precision}, {'compiled' if found.compiled else 'not compiled'}",
        "parameters": f"{sum(count_parameters(config.model).values()):,}",
        "a step": f"{_batch(config)}: {1000 * found.seconds_per_step:.4g} ms, {found.spread:.1%} between rounds",
        "speed": f"{count(found.tokens_per_second)} tok/s",
        "operations": reached,
        "": "counted: 6 a weight of every matrix product, the causal half of attention, no recomputation",
        "memory": f"{found.peak_bytes / 2**30:.2f} GiB at the peak, {estimated} {found.estimated_bytes / 2**30:.2f}",
        "start": duration(found.start_seconds),
    }


def _share(found: Measured, flops: float) -> str:
    return f"{found.flops_per_second / flops:.0%}"


_MUCH_IDLE, _HEAD, _SMALL_BATCH, _LARGE = 0.15, 0.4, 8192, 500_000_000


def advice(config: RunConfig, found: Measured) -> list[str]:
    """What would make these steps faster, as far as it can be told from how they went."""
    training, hints = config.training, []
    parameters = count_parameters(config.model)
    products = parameters["attention"] + parameters["feed_forward"]
    head = config.model.vocab_size * config.model.n_embd
    rows = training.micro_batch_size * config.model.max_seq_len
    compiles = why_not_compiled(training.device, training.recompute_layers) is None
    if training.device != "cpu" and not training.compile and compiles:
        hints.append("--training.compile: kernels that are fused move less memory")
    if training.precision == "fp32" and training.device == "cuda":
        hints.append("--precision bf16: products run several times as fast")
    if training.precision == "bf16" and training.device == "cuda" and products > _LARGE:
        hints.append("--precision fp8: products of models of about 1 B take less time so; compare the losses")
    idle = found.shares.get(IDLE, 0.0)
    if idle > _MUCH_IDLE:
        more = ": more rows at a time (--training.micro-batch-size)" if rows < _SMALL_BATCH else ""
        hints.append(f"{idle:.0%} of a step nothing computes{more}")
    elif training.accumulation > 1 and rows < _SMALL_BATCH and training.device == "cuda":
        hints.append(f"{rows:,} tokens at a time are few for a GPU: a larger --training.micro-batch-size")
    if head > _HEAD * (head + products):
        hints.append(
            f"{head / (head + products):.0%} of the operations read logits out: a smaller --tokenizer.vocab-size"
        )
    return hints or ["nothing stands out"]
