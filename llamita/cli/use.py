"""`llamita generate`."""

import sys
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from llamita.cli.console import print_json
from llamita.config import DeviceName, Precision
from llamita.generation.engine import generate as generate_texts
from llamita.generation.engine import stream
from llamita.generation.sampling import Sampling
from llamita.runs.folder import Run
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
