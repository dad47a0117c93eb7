"""Checkpoints that a run goes back behind: moved out of the way of those to come, never removed."""

import re
from itertools import chain, count
from pathlib import Path

from llamita.errors import UserError
from llamita.files import make_folder, sync_folder
from llamita.runs.folder import Run

_FOLDER = "abandoned"
_NAME = re.compile(r"step_([0-9]+)")


def set_aside(run: Run, after: int) -> list[Path]:
    """Move checkpoints of steps above `after`, damaged ones too, to checkpoints/abandoned; gives where they are then.

    The caller holds the run for writing.
    """
    folder = run.checkpoint_folder
    later = [(step, path) for path in folder.glob("step_*") if (step := _step(path)) is not None and step > after]
    moved: list[Path] = []
    try:
        # The newest first: what is left is at any time a run that came as far as its newest checkpoint.
        for _, path in sorted(later, reverse=True):
            make_folder(folder / _FOLDER)
            moved.append(path.rename(_unused(folder / _FOLDER / path.name)))
        if moved:
            # First where they came to: a power cut may leave a name in two places, but not in none.
            sync_folder(folder / _FOLDER)
            sync_folder(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: later checkpoints can't be moved to {_FOLDER}/ ({error}); let it be written"
        ) from error
    return moved[::-1]


def _step(path: Path) -> int | None:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def _unused(path: Path) -> Path:
    """The path, or where something is there already the path with the first free number."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in count(2))
    return next(one for one in chain([path], numbered) if not one.exists())
