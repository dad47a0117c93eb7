"""The weights that a run began with, if they were another's: its checkpoint at step 0, and a note that there is one."""

import json
import shutil
from pathlib import Path

from llamita.errors import UserError
from llamita.files import write_text
from llamita.runs.checkpoint import Checkpoint, checkpoints

START = "start.json"
_CHECKPOINT = Path("checkpoints", "step_00000000")


def start_of(folder: Path) -> Checkpoint | None:
    """The checkpoint that a run began with; None for one that began at random.

    UserError if it should be there: weights drawn anew must never pass for it.
    """
    found = next((item for item in checkpoints(folder / _CHECKPOINT.parent) if item.step == 0), None)
    if found is None and (folder / START).exists():
        raise UserError(
            f"{folder / _CHECKPOINT}: missing or damaged, and the run began with these weights: "
            "copy it from where the run came from, or begin a new run"
        )
    return found


def note_start(folder: Path, whence: str) -> None:
    """Say that a run begins with weights from elsewhere, which are about to be written."""
    write_text(folder / START, json.dumps({"from": whence}) + "\n")


def forget_start(folder: Path) -> None:
    """Remove what an interrupted preparation left of a start."""
    shutil.rmtree(folder / _CHECKPOINT, ignore_errors=True)
    (folder / START).unlink(missing_ok=True)
