"""What a tracker does, and what each needs: its package, and a name that stays the run's own."""

import importlib
import json
import re
import secrets
from collections.abc import Mapping
from types import ModuleType
from typing import Protocol, runtime_checkable

from llamita.config import TrackerName
from llamita.errors import UserError
from llamita.files import read_text, write_text
from llamita.runs.folder import Run

_ID = re.compile("[0-9a-f]{16}")
_ID_BYTES = 8
_NOTE_BYTES = 1 << 12


@runtime_checkable
class Tracker(Protocol):
    """Where a run's figures go. Whatever it raises leaves it out of the rest of the training."""

    def start(self, step: int, /) -> str:
        """Go on behind a step, -1 before the first figures; what it has of later steps holds no longer.

        Gives where to look. Called again where a run goes back.
        """

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step, all of them finite."""

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text of a step, to be shown as it stands."""

    def finish(self, failed: bool, /) -> None:
        """Write what is left, a few seconds long at most where that hangs on a network."""


def load(tracker: TrackerName, package: str) -> ModuleType:
    """A package that a tracker needs; UserError if it isn't installed, or doesn't load."""
    install = f"pip install 'llamita[{'track' if tracker == 'tensorboard' else tracker}]'"
    without = "or go on without it: --tracking.empty-to"
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"--tracking.to {tracker} needs {tracker}: {install}, {without}") from error
    except Exception as error:  # of packages that don't fit each other
        raise UserError(f"--tracking.to {tracker} can't be loaded ({error}): install it anew, {without}") from error


def run_id(run: Run) -> str:
    """What a run is called where many are, drawn once and kept in its tracking.json; UserError if that is damaged."""
    path = run.path / "tracking.json"
    try:
        note = json.loads(read_text(path, _NOTE_BYTES))
        found = note.get("id") if isinstance(note, dict) else None
    except FileNotFoundError:
        found = secrets.token_hex(_ID_BYTES)
        write_text(path, json.dumps({"id": found}) + "\n")
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise UserError(f"{path}: holds no id; remove it, and the run begins anew in its trackers")
    return found


def verbatim(text: str) -> str:
    """Text as a block of Markdown that shows it as it stands."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
