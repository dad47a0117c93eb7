"""`llamita resume`."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from llamita import layers
from llamita.cli.console import narrator, print_json
from llamita.cli.settings import Settings
from llamita.cli.stopping import Stopping, same_command
from llamita.cli.train import train_session
from llamita.config import RunConfig
from llamita.errors import UsageError, UserError
from llamita.observatory.summary import summarize
from llamita.runs.abandon import set_aside
from llamita.runs.checkpoint import Checkpoint, load_model, load_state
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.training.hardware import choose_hardware
from llamita.training.schedule import lr_multiplier
from llamita.training.session import Session


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
    console = narrator(json)
    with Stopping(console, same_command()) as stopping:
        opened = Run.open(run)
        before = opened.config()
        config = _changed(opened, settings)
        begin = _beginning(opened, checkpoint)
        if begin is not None and begin.step >= config.training.steps:
            console.print(
                f"{run} is finished: {begin.step} of {config.training.steps} steps. "
                f"For more: llamita resume {run} --training.steps {2 * max(begin.step, config.training.steps)}"
            )
            if json:
                print_json(summarize(opened))
            return
        if checkpoint is not None:
            _go_back(opened, begin, config, console)
        if begin is not None:
            console.print(f"going on from step {begin.step}")
        else:
            console.print(f"{run} {'has no checkpoint yet: ' if checkpoint is None else 'is '}starting over")
        if begin is not None and config.training.steps != before.training.steps:
            _announce_stretch(before, config, begin.step, console)
        train_session(Session(opened, config), stopping, console, as_json=json)


def _beginning(run: Run, which: str | None) -> Checkpoint | None:
    """The checkpoint to go on from; None is the model before its first step."""
    found = run.checkpoints()
    if which == "initial" or (which is None and not found):
        return None
    if which is None:
        return found[-1]
    try:
        return run.checkpoint(which)
    except UserError as error:
        raise UsageError(str(error)) from error


def _go_back(run: Run, begin: Checkpoint | None, config: RunConfig, console: Console) -> None:
    """Set the checkpoints behind the one to begin with aside, once it's known that this one can be read."""
    if begin is not None:
        load_model(begin, config.model)
        load_state(begin)
    with writing(run.path):
        moved = set_aside(run, after=-1 if begin is None else begin.step)
    if moved:
        console.print(f"moved to {moved[0].parent}: {', '.join(path.name for path in moved)}", markup=False)


def _changed(run: Run, settings: Settings) -> RunConfig:
    """A run's config with what may change on resuming."""
    _, origin = layers.merge(settings.asked())
    for name in origin:
        # Another seed would be another order of the data, in which the run's position means nothing.
        if not name.startswith(("training.", "optimizer.")) or name == "training.seed":
            raise UsageError(
                f"--{name}: a resumed run keeps what it began with; only optimizer.* and training.* but the seed may "
                "change"
            )
    values, _ = layers.merge([layers.from_file(run.config_file), *settings.asked()])
    config = layers.build(values)
    hardware = choose_hardware(config.training.device, config.training.precision)
    return replace(config, training=replace(config.training, device=hardware.device, precision=hardware.precision))


def _announce_stretch(before: RunConfig, after: RunConfig, step: int, console: Console) -> None:
    rates = [
        config.optimizer.lr * lr_multiplier(step, config.training.steps, config.optimizer) for config in (before, after)
    ]
    console.print(
        f"{after.training.steps} steps instead of {before.training.steps}: the {after.optimizer.schedule} schedule "
        f"is stretched from here; learning rate {rates[0]:.2e} -> {rates[1]:.2e}"
    )
