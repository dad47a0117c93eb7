"""Figures of the runs that tie_runs.py made.

python benchmarks/tie_figures.py runs.jsonl --curves docs/ties-curves.png --transfer docs/ties-transfer.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tie_runs import EVERY, ROWS, SEQ_LEN, VOCAB_SIZE, suites

from llamita.training.sizes import pick_rates


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss over tokens at n_embd 768: short runs on the left, long ones on the right; a line a seed."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["name"] for row in rows))
    for axes, long in zip(figure.subplots(1, 2), (False, True), strict=True):
        chosen = [row for row in rows if (row["steps"] > 1000) == long]
        for number, name in enumerate(names):
            for seed, row in enumerate(one for one in chosen if one["name"] == name):
                tokens = [(at + 0.5) * EVERY * ROWS * SEQ_LEN / 1e6 for at in range(len(row["curve"]))]
                axes.plot(tokens, row["curve"], color=f"C{number}", linewidth=0.8, label=None if seed else name)
        axes.set(xlabel="million tokens", ylabel="training loss (nats a token)", ylim=(3.4, 5.5) if long else (4.2, 8))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def draw_transfer(rows: list[dict[str, Any]], path: Path) -> None:
    """Held-out loss over the rate of the matrices and over that of the table, both times the width."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for n_embd in sorted({row["n_embd"] for row in rows}):
        # A job's name has what its rates were multiplied by, that of the matrices first.
        runs = [(row["name"].split()[1:], row["rates"], row["held_out"]) for row in rows if row["n_embd"] == n_embd]
        for axes, varied, group in ((panels[0], 0, -1), (panels[1], 1, 0)):
            line = sorted((rates[group] * n_embd, loss) for name, rates, loss in runs if name[1 - varied] == "x1")
            axes.plot(*zip(*line, strict=True), "o-", label=f"n_embd {n_embd}")
    rule = pick_rates(1024, VOCAB_SIZE, 300)
    chosen = 1024 * rule["lr"], 1024 * rule["lr"] * rule["table_lr_ratio"]
    for axes, what, rate in zip(panels, ("matrices", "table"), chosen, strict=True):
        axes.axvline(rate, color="black", linewidth=1, linestyle="--", label="the rule")
        axes.set(xscale="log", xlabel=f"rate of the {what} x n_embd")
        axes.minorticks_off()
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
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

    def of(*chosen: str) -> list[dict[str, Any]]:
        named = {job.name for suite in chosen for job in suites()[suite]}
        return [row for row in rows if row["name"] in named]

    if options.curves is not None:
        draw_curves(of("gap", "bars"), options.curves)
    if options.transfer is not None:
        draw_transfer(of("transfer"), options.transfer)


if __name__ == "__main__":
    main()
