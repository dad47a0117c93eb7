"""`llamita generate` and `llamita eval`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from llamita.cli.console import narrator, print_json
from llamita.cli.sources import SourceName, check_max_bytes
from llamita.cli.stopping import Stopping, same_command
from llamita.config import DataConfig, DeviceName, Precision
from llamita.errors import UsageError, UserError, command_line
from llamita.generation.engine import generate as generate_texts
from llamita.generation.engine import stream
from llamita.generation.sampling import Sampling
from llamita.runs.folder import Run
from llamita.text.frequency import COUNTED_TOKENS
from llamita.text.shards import Corpus, open_corpora, write_shards
from llamita.text.sources import find, read
from llamita.text.tokenizer import Tokenizer
from llamita.training.evaluate import evaluate
from llamita.training.hardware import choose_hardware


def generate(
    run: Path,
    prompt: str = "",
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    greedy: bool = False,
    stop: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    samples: int = 1,
    seed: int = 0,
    checkpoint: str = "best",
    device: DeviceName = "auto",
    precision: Precision | None = None,
    json: bool = False,
) -> None:
    """Let a run's model go on from a prompt.

    Parameters
    ----------
    run
        The run's folder.
    prompt
        The text to go on from; empty for a new text.
    temperature
        0 takes the likeliest token, 1 draws as the model predicts.
    top_k
        Draw among the k likeliest tokens.
    top_p
        Draw among the likeliest tokens that make up this probability.
    min_p
        Draw among tokens at least this share as likely as the likeliest.
    repetition_penalty
        Above 1, makes tokens that were used less likely.
    greedy
        The same as --temperature 0.
    stop
        End before this string; may be given several times.
    checkpoint
        best, latest or a step.
    precision
        fp32 on a CPU unless asked for; elsewhere what the machine computes fast.
    json
        Print one JSON object.
    """
    hardware = choose_hardware(device, precision or "auto")
    opened = Run.open(run)
    model, tokenizer = opened.model(checkpoint, hardware.device), opened.tokenizer()
    torch.set_num_threads(hardware.threads)
    wanted = precision or ("fp32" if hardware.device == "cpu" else hardware.precision)
    if wanted in ("bf16", "fp8") or (wanted == "auto" and hardware.precision == "bf16"):
        model = model.to(torch.bfloat16)
    sampling = Sampling(
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    if json or samples != 1:
        made = generate_texts(
            model,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            samples=samples,
            seed=seed,
        )
        if json:
            rows = [{"text": one.text, "token_ids": one.token_ids, "finish_reason": one.finish_reason} for one in made]
            print_json({"prompt": prompt, **rows[0], "samples": rows})
            return
        for number, one in enumerate(made, 1):
            sys.stdout.write(f"--- {number}\n{prompt}{one.text}\n")
        return
    pieces = stream(model, tokenizer, prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, seed=seed)
    sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def eval(
    run: Path,
    *sources: SourceName,
    field: str = "text",
    max_bytes: int | None = None,
    checkpoint: str = "best",
    device: DeviceName = "auto",
    precision: Precision = "auto",
    json: bool = False,
) -> None:
    """Measure a run's model on any text: loss in nats a token, and bits per byte.

    Parameters
    ----------
    run
        The run's folder.
    sources
        Text files, folders, globs, datasets of the hub, or - for standard input.
    field
        Where the text is in jsonl and parquet.
    max_bytes
        Read no more text than this.
    checkpoint
        best, latest or a step.
    json
        Print one JSON object.
    """
    if not sources:
        raise UsageError(f"no text to measure on; for example: {command_line('eval', run, 'other.txt')}")
    check_max_bytes(max_bytes)
    hardware = choose_hardware(device, precision)
    opened = Run.open(run)
    torch.set_num_threads(hardware.threads)
    model, tokenizer = opened.model(checkpoint, hardware.device), opened.tokenizer()
    config = opened.config()
    with Stopping(narrator(json), same_command()), tempfile.TemporaryDirectory() as folder:
        trained_on = _training_corpus(opened, tokenizer)
        counts = trained_on.token_counts if isinstance(trained_on, Corpus) else None
        corpus = write_shards(read(find(sources), field=field, max_bytes=max_bytes), tokenizer, Path(folder)).train
        data = DataConfig(packing=config.data.packing, mask_documents=config.data.mask_documents)
        result = evaluate(
            model, corpus, precision=hardware.precision, data=data, lossless=tokenizer.lossless, counts=counts
        )
    if json:
        print_json(result)
        return
    per_byte = (
        f"{result.bits_per_byte:.4f} bits per byte"
        if result.bits_per_byte is not None
        else f"no bits per byte: the {tokenizer.kind} tokenizer loses text that it doesn't know"
    )
    print(f"loss {result.loss:.4f} nats a token over {result.tokens} tokens, {result.bytes} bytes; {per_byte}")
    if result.left_out:
        print(f"left out: {result.left_out} tokens that the model has no logit of: in its text they follow nothing")
    if not isinstance(trained_on, Corpus):
        print(f"no loss by frequency: {trained_on}")
        return
    part = " in its first billion tokens" if trained_on.tokens > COUNTED_TOKENS else ""
    print(f"by how often the training text has{part} the token that was to be predicted:")
    for band in result.bands:
        times = "never" if band.least == 0 else f"{band.least:,} to {10 * band.least - 1:,} times"
        print(f"  {times:>26}: {band.loss:8.4f} nats, {band.tokens / result.tokens:7.2%} of the tokens")


def _training_corpus(run: Run, tokenizer: Tokenizer) -> Corpus | UserError:
    """What the run was trained on, or why that isn't there any more."""
    try:
        return open_corpora(run.data_folder, tokenizer).train
    except UserError as error:
        return error
