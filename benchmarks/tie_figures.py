"""Figures of the runs that tie_runs.py made.

python benchmarks/tie_figures.py runs.jsonl --curves docs/ties-curves.png --transfer docs/ties-transfer.png
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tie_runs import EVERY, ROWS, SEQ_LEN, rates, suites


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss over tokens at n_embd 768: short runs on the left, long ones on the right; a line a seed."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, long in zip(figure.subplots(1, 2), (False, True), strict=True):
        chosen = [row for row in rows if (row["steps"] > 1000) == long]
        for number, name in enumerate(dict.fromkeys(row["name"] for row in chosen)):
            for seed, row in enumerate(one for one in chosen if one["name"] == name):
                tokens = [(at + 0.5) * EVERY * ROWS * SEQ_LEN / 1e6 for at in range(len(row["curve"]))]
                axes.plot(tokens, row["curve"], color=f"C{number}", linewidth=0.8, label=None if seed else name)
        axes.set(xlabel="million tokens", ylabel="training loss (nats a token)", ylim=(3.3 if long else 4.3, 8))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def draw_transfer(rows: list[dict[str, Any]], path: Path) -> None:
    """Held-out loss over the rate of the matrices and over that of the tables, as multiples of the rule's."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for n_embd in sorted({row["n_embd"] for row in rows}):
        rule = rates(n_embd)
        points = []
        for row in (one for one in rows if one["n_embd"] == n_embd):
            lr, ratio = row["optimizer"]["lr"], row["optimizer"]["table_lr_ratio"]
            points.append((lr / rule["lr"], lr * ratio / (rule["lr"] * rule["table_lr_ratio"]), row["held_out"]))
        for axes, varied in zip(panels, (0, 1), strict=True):
            line = sorted((point[varied], point[2]) for point in points if math.isclose(point[1 - varied], 1))
            if line:
                axes.plot(*zip(*line, strict=True), "o-", label=f"n_embd {n_embd}")
    for axes, what in zip(panels, ("matrices", "table"), strict=True):
        axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
        axes.set(xscale="log", xlabel=f"rate of the {what} over the rule's")
        axes.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("held-out loss (nats a token)")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--transfer", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.runs.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "error" not in row]
    if options.curves is not None:
        named = {job.name for suite in ("gap", "bars") for job in suites()[suite]}
        draw_curves([row for row in rows if row["n_embd"] == 768 and row["name"] in named], options.curves)
    if options.transfer is not None:
        draw_transfer([row for row in rows if row["n_layers"] == 6], options.transfer)


if __name__ == "__main__":
    main()
