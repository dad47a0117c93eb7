"""`llamita resume`."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from llamita import layers
from llamita.cli.console import narrator, print_json
from llamita.cli.settings import Settings
from llamita.cli.stopping import Stopping, same_command
from llamita.cli.train import train_session
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError, command_line
from llamita.observatory.summary import summarize
from llamita.runs.folder import Run
from llamita.tracking.tracked import check_trackers
from llamita.training.hardware import choose_hardware
from llamita.training.schedule import lr_multiplier
from llamita.training.session import Session
from llamita.training.tuning import with_attention


def resume(run: Path, *, checkpoint: str | None = None, settings: Settings = Settings(), json: bool = False) -> None:
    """Go on with a run from its newest checkpoint, or from another one; without one it starts over.

    Parameters
    ----------
    run
        The run's folder.
    checkpoint
        A step, best or initial: go on from there instead; later checkpoints move to checkpoints/abandoned.
    json
        Print one JSON object at the end instead of words.
    """
    console, started = narrator(json), time.monotonic()
    with Stopping(console, same_command()) as stopping:
        opened = Run.open(run)
        before = opened.config()
        config = _changed(opened, settings, console.print)
        begin = opened.beginning(checkpoint)
        if opened.start is not None and before.training.steps == 0:
            raise UserError(f"{run} came without text; train on with: llamita train TEXT --from {run} --run NEW")
        if begin is not None and begin.step >= config.training.steps:
            from_there = () if checkpoint is None else ("--checkpoint", checkpoint)
            more = "--training.steps", 2 * max(begin.step, config.training.steps)
            console.print(
                f"{run} is finished: {begin.step} of {config.training.steps} steps. "
                f"For more: {command_line('resume', run, *from_there, *more)}",
                markup=False,
            )
            if json:
                print_json(summarize(opened))
            return
        check_trackers(config.tracking)
        session = Session(opened, config, begin=checkpoint, started=started)
        if begin is not None:
            console.print(f"going on from step {begin.step}")
        else:
            console.print(f"{run} {'has no checkpoint yet: ' if checkpoint is None else 'is '}starting over")
        if begin is not None and config.training.steps != before.training.steps:
            _announce_stretch(before, config, begin.step, console)
        train_session(session, stopping, console, as_json=json)


def _changed(run: Run, settings: Settings, notify: Callable[[str], None]) -> RunConfig:
    """A run's config with what may change on resuming."""
    _, origin = layers.merge(settings.asked())
    for name in origin:
        # Another seed would be another order of the data, in which the run's position means nothing.
        if not name.startswith(("training.", "optimizer.", "tracking.")) or name == "training.seed":
            raise UsageError(
                f"--{name}: a resumed run keeps what it began with; only optimizer.*, training.* but the seed, and "
                "tracking.* may change"
            )
    values, _ = layers.merge([layers.from_file(run.config_file), *settings.asked()])
    config = layers.build(values)
    hardware = choose_hardware(config.training.device, config.training.precision)
    config = replace(config, training=replace(config.training, device=hardware.device, precision=hardware.precision))
    return with_attention(config, notify) if "training.attention" in origin else config


def _announce_stretch(before: RunConfig, after: RunConfig, step: int, console: Console) -> None:
    rates = [
        config.optimizer.lr * lr_multiplier(step, config.training.steps, config.optimizer) for config in (before, after)
    ]
    console.print(
        f"{after.training.steps} steps instead of {before.training.steps}: the {after.optimizer.schedule} schedule "
        f"is stretched from here; learning rate {rates[0]:.2e} -> {rates[1]:.2e}"
    )
