"""Weights & Biases: one run there for a run here, however often it is resumed."""

import html
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.runs.folder import Run
from llamita.tracking.tracker import load, run_id

_WITHOUT_LOGIN = ("offline", "dryrun", "disabled")
_FINISH_SECONDS = 60  # for what is left to be sent; a network that is gone must not keep a finished run waiting


def check_wandb() -> None:
    """UserError if it isn't installed, is too old, or would ask who is there."""
    wandb = load("wandb", "wandb")
    try:
        mode = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode
        known = mode in _WITHOUT_LOGIN or wandb.login(prompt=False, verify=False)
    except TypeError as error:
        raise UserError(
            f"--tracking.to wandb: version {wandb.__version__} is too old; pip install -U 'llamita[wandb]'"
        ) from error
    except Exception as error:  # of a key that can't be one, or of settings that don't fit
        raise UserError(f"--tracking.to wandb: {error}; check it with `wandb login`") from error
    if not known:
        raise UserError(
            "--tracking.to wandb: nobody is logged in; type `wandb login`, or set WANDB_MODE=offline to keep it here"
        )


class Wandb:
    """Figures, samples and the config, in the project of the config; its own files in wandb/ beside the run folder.

    What it has stays: figures of steps that are taken again are left out until they are new to it.
    """

    def __init__(self, run: Run, config: RunConfig) -> None:
        self._wandb = load("wandb", "wandb")
        self._run = run
        self._config = config
        self._there: Any = None
        self._reached = 0

    def start(self, _step: int, /) -> str:
        """Begin the run there, or go on with it, whatever the step: nothing that is there can be taken back."""
        if self._there is None:
            self._there = self._wandb.init(
                project=self._config.tracking.project,
                id=run_id(self._run),
                name=self._run.name,
                resume="allow",
                # Not inside: it makes links that lead out of a run folder, which is refused then.
                dir=None if os.environ.get("WANDB_DIR") else str(self._run.path.parent),
                settings=self._wandb.Settings(
                    silent=True, console="off", finish_timeout=_FINISH_SECONDS, finish_timeout_raises=True
                ),
            )
            self._there.config.update(asdict(self._config), allow_val_change=True)
            self._reached = self._there.step
        if self._there.offline:
            return self._sync()
        return self._there.url or "nowhere, as WANDB_MODE has it"

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step that isn't older than the last one there."""
        self._log(step, dict(figures))

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text of a step that isn't older than the last one there."""
        shown = f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
        self._log(step, {name: self._wandb.Html(shown, inject=False)})

    def finish(self, failed: bool, /) -> None:
        """Send what is left; UserError where that takes too long: it stays on the disk."""
        if self._there is None:
            return
        try:
            self._there.finish(exit_code=int(failed))
        except TimeoutError as error:
            raise UserError(f"not all of it was sent in {_FINISH_SECONDS} s; send it with: {self._sync()}") from error

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step >= self._reached:
            self._there.log(values, step=step)
            self._reached = step

    def _sync(self) -> str:
        return shlex.join(["wandb", "sync", str(Path(self._there.dir).parent)])
