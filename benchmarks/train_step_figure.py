"""Table and figure of what train_step.py printed, a file a run.

python benchmarks/train_step_figure.py 30m.jsonl 124m.jsonl documents.jsonl 1b.jsonl --figure docs/train-step.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

NAMES = {
    "llamita": "llamita",
    "fp8": "llamita, fp8",
    "litgpt": "litgpt, model and loss in one graph",
    "litgpt-pretrain": "litgpt, as it pretrains",
    "hf": "transformers, compiled",
}


def summary(path: Path) -> dict[str, Any]:
    """The last line of a run."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return found


def title(row: dict[str, Any]) -> str:
    """What was measured."""
    return row["shape"] + (f", documents of {row['documents']} tokens" if row.get("documents") else "")


def table(rows: list[dict[str, Any]]) -> str:
    """Tokens a second and how many times as many llamita's are, as Markdown."""
    lines = ["| shape | candidate | tok/s | spread | llamita's over it |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        for name, speed in row["medians"].items():
            ratio = row["ratios"].get(name)
            lines.append(
                f"| {title(row)} | {NAMES.get(name, name)} | {speed:,.0f} | {row['spread'][name] / speed:.1%} | "
                f"{'' if ratio is None else f'{ratio:.2f}'} |"
            )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars, each shape's own scale: 1 is llamita in bf16."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    named = [[name for name in NAMES if name in row["medians"]] for row in rows]
    width = 0.8 / max(map(len, named))
    for color, name in enumerate(NAMES):
        found = [(at, row["medians"]) for at, row in enumerate(rows) if name in row["medians"]]
        if found:
            places = [at + (named[at].index(name) - (len(named[at]) - 1) / 2) * width for at, _ in found]
            shares = [speeds[name] / speeds["llamita"] for _, speeds in found]
            bars = axes.bar(places, shares, width, label=NAMES[name], color=f"C{color}")
            axes.bar_label(bars, [f"{speeds[name] / 1000:,.0f} k" for _, speeds in found], fontsize=7, padding=1)
    axes.set_xticks(range(len(rows)), [title(row) for row in rows])
    axes.set(ylabel="tokens a second over llamita's in bf16", ylim=(0, 1.6), title=rows[0]["device"])
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    rows = [summary(path) for path in options.runs]
    print(table(rows))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
