"""`make chaos`: harm runs in every way that is promised to be survived, and report what came of it.

python -m tests.chaos                 # all of it; the table goes into docs/reliability.md
python -m tests.chaos --minutes 5     # as much as fits, in equal parts; the page stays
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.runs import VARIANTS, Example, example
from tests.chaos.trials import TRIALS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- make chaos: begin -->", "<!-- make chaos: end -->"


@dataclass
class Row:
    """A kind of fault and what came of it so far."""

    fault: str
    wanted: int
    injected: int = 0
    survived: int = 0
    steps: int = 0
    bytes: int = 0


def turns(rows: list[Row]) -> Iterator[Row]:
    """The kinds of fault, each in turn as often as it's wanted, until there's enough of all."""
    while todo := [row for row in rows if row.injected < row.wanted]:
        yield min(todo, key=lambda row: row.injected / row.wanted)


def run_trials(rows: list[Row], folder: Path, seed: int, deadline: float) -> None:
    """Take turns until all faults were injected or the time is up."""
    chance = random.Random(seed)
    examples: list[Example] = []
    for name in VARIANTS:
        examples.append(example(folder / name.replace(" ", "_"), name))
    print(f"{len(examples)} runs of {examples[0].seconds:.1f} s and the like; seed {seed}", flush=True)
    told = time.monotonic()
    for number, row in enumerate(turns(rows)):
        if time.monotonic() > deadline:
            break
        trial, _ = TRIALS[row.fault]
        place = folder / "trials" / str(number)
        place.parent.mkdir(exist_ok=True)
        which = chance.choice(examples)
        harm = trial(which, place, chance)
        row.injected += harm.injected
        row.survived += harm.survived
        row.steps += harm.steps
        row.bytes += harm.bytes
        if harm.survived < harm.injected:
            kept = Path(tempfile.gettempdir()) / f"chaos-{seed}-{number}"
            shutil.copytree(place, kept, dirs_exist_ok=True)
            print(f"NOT survived: {row.fault}, run {which.name!r}, trial {number}; its folder is {kept}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        if time.monotonic() - told > 5:
            told = time.monotonic()
            print(f"{sum(row.injected for row in rows)} of {sum(row.wanted for row in rows)} faults", flush=True)


def table(rows: list[Row]) -> str:
    """The report as a table in Markdown."""
    lines = [
        "| injected fault | times tried | times survived | steps taken again | bytes lost |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {row.fault} | {row.injected} | {row.survived} | {row.steps} | {row.bytes} |" for row in rows]
    return "\n".join(lines)


def last_line(rows: list[Row]) -> str:
    """How it went, in a line."""
    return f"chaos: {sum(row.injected for row in rows)} injected, {sum(row.survived for row in rows)} survived"


def write_page(page: Path, rows: list[Row], seed: int) -> None:
    """Put the table in its place on the page."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    made = f"{table(rows)}\n\n`make chaos`, seed {seed}: `{last_line(rows)}`"
    page.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Harm, judge, report; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="stop after so long; default: when all faults were injected")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="inject this share of the faults")
    options = parser.parse_args(arguments)
    deadline = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    rows = [Row(fault, max(round(wanted * options.scale), 1)) for fault, (_, wanted) in TRIALS.items()]
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        run_trials(rows, Path(folder), options.seed, deadline)
    print(table(rows))
    if options.scale == 1.0 and all(row.injected >= row.wanted for row in rows):
        write_page(PAGE, rows, options.seed)
        print(f"written into {PAGE.name}")
    print(last_line(rows))
    return int(any(row.survived < row.injected for row in rows))


if __name__ == "__main__":
    sys.exit(main())
