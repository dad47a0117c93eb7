"""The first loss of a fresh model by its width: a naive tie, this library's, and untied. One JSON line a model.

python benchmarks/ties.py --picture docs/ties-start.png
"""

import argparse
import json
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from llamita.config import ModelConfig
from llamita.model.transformer import LLaMaTransformer
from llamita.training.evaluate import DeviceBatch
from llamita.training.preflight import preflight

WIDTHS = (64, 128, 256, 512, 768, 1024, 2048, 4096)
KINDS = {
    "naive tie, rows from N(0, 1)": {"embedding_std": 1.0, "embedding_scale": 1.0},
    "tied, as here": {},
    "untied, as here": {"tie_embeddings": False},
}
VOCAB_SIZE = 4096
SEQ_LEN = 128


def first_losses(width: int, seeds: int) -> list[dict[str, object]]:
    """The first loss of every kind of model of a width, on random tokens."""
    rows: list[dict[str, object]] = []
    for kind, settings in KINDS.items():
        for seed in range(seeds):
            torch.manual_seed(seed)
            shape = {"n_layers": 1, "n_heads": max(width // 64, 1), "max_seq_len": SEQ_LEN, "ffn_dim": 64}
            model = LLaMaTransformer(ModelConfig(vocab_size=VOCAB_SIZE, n_embd=width, **shape, **settings))
            tokens = torch.randint(VOCAB_SIZE, (8, SEQ_LEN + 1))
            batch = DeviceBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), None)
            found = preflight(model, batch, "fp32")
            law = {"self_logit": found.self_logit, "predicted": found.predicted_self_logit}
            rows.append({"kind": kind, "n_embd": width, "seed": seed, "loss": found.loss, **law})
    return rows


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """First loss over width, both on logarithmic axes, with the law and the loss of a guess."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(WIDTHS, WIDTHS, color="black", linewidth=1, linestyle=":", label="the law: std x n_embd, std 1")
    guess = math.log(VOCAB_SIZE)
    axes.axhline(guess, color="black", linewidth=1, linestyle="--", label=f"a guess: ln {VOCAB_SIZE} = {guess:.2f}")
    for kind, marker in zip(KINDS, ("s", "o", "x"), strict=True):
        points = [(row["n_embd"], row["loss"]) for row in rows if row["kind"] == kind]
        axes.plot(*zip(*points, strict=True), marker, label=kind, markersize=7, fillstyle="none")
    axes.set(xscale="log", yscale="log", xlabel="n_embd", ylabel="first loss (nats a token)")
    axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure every width, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="a PNG to draw")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for width in WIDTHS:
        for row in first_losses(width, options.seeds):
            print(json.dumps(row), flush=True)
            rows.append(row)
    if options.picture is not None:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
