"""`llamita preflight`."""

from dataclasses import asdict
from pathlib import Path

import torch

from llamita import layers
from llamita.cli.console import out, print_json
from llamita.cli.settings import Settings
from llamita.cli.show import ASSUMED_BYTES, resolved
from llamita.errors import UsageError
from llamita.runs.folder import Run, initial_model
from llamita.text.batches import Position
from llamita.text.shards import open_corpora
from llamita.training.evaluate import to_device
from llamita.training.loop import batches_of
from llamita.training.preflight import Preflight
from llamita.training.preflight import preflight as measure
from llamita.training.trial import random_batch


def preflight(
    run: Path | None = None, *, checkpoint: str = "initial", settings: Settings = Settings(), json: bool = False
) -> None:
    """Put one batch through a model before its first step: first loss, copy logit, gradients of the table's roles.

    Exit code 1 for a start that is broken. Without a run the settings are tried on random tokens.

    Parameters
    ----------
    run
        A run's folder, whose own text is read.
    checkpoint
        initial, best, latest or a step.
    json
        Print one JSON object.
    """
    if run is not None:
        if layers.merge(settings.asked())[1]:
            raise UsageError("give --run or settings: a run is tried as it is")
        opened = Run.open(run)
        config, model = opened.config(), opened.model(checkpoint)
        corpus = open_corpora(opened.data_folder, opened.tokenizer()).train
        batch = to_device(batches_of(corpus, config).batch(Position())[0], torch.device("cpu"))
    else:
        config = resolved(settings, ASSUMED_BYTES)[0]
        model, batch = initial_model(config), random_batch(config, torch.device("cpu"))
    model.embeddings.grad_scale = config.optimizer.input_grad_scale
    found = measure(model, batch, config.training.precision)
    if json:
        print_json(
            {**asdict(found), "predicted_self_logit": found.predicted_self_logit, "input_share": found.input_share}
        )
    else:
        _show(found, config.model.vocab_size - config.model.unpredicted_rows)
    if found.problems:
        raise SystemExit(1)


def _show(found: Preflight, tokens: int) -> None:
    law = f"std {found.std:.3g} x n_embd {found.n_embd} x cosine {found.cosine:.2f}"
    guess = f"a guess has ln({tokens}) = {found.guess:.4f}"
    rows = {
        "first loss": f"{found.loss:.4f} nats a token; {guess}",
        "self-logit": f"{found.self_logit:.3f} for the token just read, {law} = {found.predicted_self_logit:.3f}",
        "logits": f"standard deviation {found.logit_std:.3f} over the vocabulary",
        "stream": "RMS of the lookup and after each block " + ", ".join(f"{rms:.3g}" for rms in found.stream_rms),
        "gradient": f"norm {found.gradient_norm:.3f}",
        "table": f"gradient through the lookup {found.input_gradient:.4f}, through the logits "
        f"{found.output_gradient:.4f}: {found.input_share:.0%} to {1 - found.input_share:.0%}",
        "verdict": "; ".join(found.problems) or "sound",
    }
    for name, told in rows.items():
        out.print(f"{name:11} {told}", markup=False)
