"""metrics.jsonl of a run that is being trained: lines in order, whatever the disk says in between."""

import contextlib
from typing import Any

from llamita.runs.folder import Run


class MetricsLog:
    """Adds lines to a run's metrics; those that can't be written now come with the next one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._unwritten: list[dict[str, Any]] = []
        self._forget_after: int | None = None

    def note(self, row: dict[str, Any]) -> None:
        """Add a line, after those that couldn't be written before."""
        self._unwritten.append(row)
        self._write()

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that are going to be taken again."""
        self._unwritten = [row for row in self._unwritten if row["step"] <= step]
        self._forget_after = step
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            if self._forget_after is not None:
                self._run.forget_metrics_after(self._forget_after)
                self._forget_after = None
            while self._unwritten:
                self._run.append_metrics(self._unwritten[0])
                del self._unwritten[0]
