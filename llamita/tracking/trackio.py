"""trackio: one run there for a run here, kept where trackio keeps all of them."""

import io
import shlex
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from llamita.config import RunConfig
from llamita.runs.folder import Run
from llamita.tracking.tracker import load, run_id, verbatim

_DIGITS = 6  # of the id, which tell runs of one name apart


def check_trackio() -> None:
    """UserError if it isn't installed."""
    load("trackio", "trackio")


class Trackio:
    """Figures, samples and the config, in the project of the config.

    What it has stays: figures of steps that are taken again are left out until they are new to it.
    """

    def __init__(self, run: Run, config: RunConfig) -> None:
        self._trackio = load("trackio", "trackio")
        self._run = run
        self._config = config
        self._there: Any = None
        self._reached = 0

    def start(self, _step: int, /) -> str:
        """Begin the run there, or go on with it, whatever the step: nothing that is there can be taken back."""
        project = self._config.tracking.project
        if self._there is None:
            name = f"{self._run.name}-{run_id(self._run)[:_DIGITS]}"
            # It prints, where there may be nothing but a JSON object.
            with redirect_stdout(io.StringIO()):
                self._there = self._trackio.init(
                    project=project, name=name, config=asdict(self._config), resume="allow", embed=False
                )
            # No public name tells how far it is.
            self._reached = getattr(self._there, "_next_step", 0)
        return shlex.join(["trackio", "show", "--project", project])

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step that isn't older than the last one there."""
        self._log(step, dict(figures))

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text of a step that isn't older than the last one there."""
        self._log(step, {name: self._trackio.Markdown(verbatim(text))})

    def finish(self, _failed: bool, /) -> None:
        """Write what is left."""
        if self._there is not None:
            with redirect_stdout(io.StringIO()):
                self._trackio.finish()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step >= self._reached:
            self._there.log(values, step=step)
            self._reached = step
