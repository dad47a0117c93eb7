"""Printing: results to stdout, progress and errors to stderr, JSON where it's asked for."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

_PLAIN_SECONDS = 5.0


def narrator(as_json: bool) -> Console:
    """Where words for people go: out of the way of a JSON object on stdout."""
    return err if as_json else out


def print_json(value: Any) -> None:
    """One JSON object on stdout; numbers that JSON lacks become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    sys.stdout.write(json.dumps(_finite(value), ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def escaped(text: str) -> str:
    """Text whose line breaks and control characters are spelled out, so that it can't move a terminal's cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def padded(text: str, width: int, left: bool = True) -> str:
    """Text filled up to a width in columns of a terminal, where some characters take two."""
    room = " " * (width - cell_len(text))
    return text + room if left else room + text


def aligned(rows: list[list[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of cells as lines with columns under each other, flush right but for the ones named."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    filled = ([padded(cell, widths[at], at in left) for at, cell in enumerate(row)] for row in rows)
    return ["  ".join(cells).rstrip() for cells in filled]


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def count(number: float) -> str:
    """A large number in three digits."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


class Line:
    """A line that changes in place on a terminal, and is printed anew every few seconds elsewhere."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("", total=None) if progress else None
        self._printed = -math.inf

    def show(self, text: str, done: float, total: float) -> None:
        """Say how far the work is."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=text, completed=done, total=total)
        elif time.monotonic() - self._printed >= _PLAIN_SECONDS or done >= total:
            self._printed = time.monotonic()
            self._console.print(text, markup=False)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line that stays."""
        self._console.print(text, style=style, markup=False)


@contextmanager
def live_line(console: Console) -> Iterator[Line]:
    """A Line for the duration of some work."""
    if not console.is_terminal:
        yield Line(console, None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Line(console, progress)
