"""What can't be written is told and tried again; nothing that was saved before is touched."""

import errno
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamita.errors import UserError
from llamita.files import write_text
from llamita.runs import saving
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.runs.saving import Saver
from llamita.training.events import NotSaved, Saved
from llamita.training.session import Session
from tests.cli.command_line import TINY, llamita
from tests.training.tiny_runs import checkpoint_bytes, small_run, trained

SETTINGS = {"training.steps": 12, "training.eval_every": 12, "training.save_every": 4, "training.log_every": 1}


@pytest.fixture
def filling(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make the disk full for some calls that write tensors: after half a file is there, as it happens.

    Every save is waited for, so that what comes of it is told at the next step.
    """

    def fill(first: int, last: int) -> None:
        real, outcome = saving.write_tensors, Saver.outcome
        calls = iter(range(1_000_000))

        def write_tensors(path: Path, tensors: dict[str, Any]) -> str:
            if first <= next(calls) < last:
                path.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, tensors)

        monkeypatch.setattr(saving, "write_tensors", write_tensors)
        monkeypatch.setattr(Saver, "outcome", lambda self, *_, **__: outcome(self, wait=True))

    return fill


def hidden(run: Run) -> list[Path]:
    return [path for path in run.path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("first", [0, 1])
def test_a_save_that_fails_is_tried_again_and_changes_nothing_else(
    first: int, tiny_text: Path, tmp_path: Path, filling: Callable[[int, int], None]
) -> None:
    whole, other = (small_run(tmp_path / name, tiny_text, SETTINGS) for name in ("whole", "other"))
    trained(whole)
    # Two files a checkpoint: step 4 fails at its first or second, and then the first file of both tries after it.
    filling(first, first + 3)
    events = trained(other)
    assert [event.step for event in events if isinstance(event, NotSaved)] == [4, 5, 6]
    assert [event.checkpoint.step for event in events if isinstance(event, Saved)] == [7, 8, 12]
    assert not hidden(other)
    reason = next(event.reason for event in events if isinstance(event, NotSaved))
    assert "step_00000004: can't be written" in reason and "No space left" in reason
    assert checkpoint_bytes(whole) == checkpoint_bytes(other)


def test_an_end_that_cannot_be_saved_is_an_error_and_keeps_the_last_good_checkpoint(
    tiny_text: Path, tmp_path: Path, filling: Callable[[int, int], None]
) -> None:
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    filling(4, 1000)
    with pytest.raises(UserError, match=f"then go on with: llamita resume {run.path}"):
        trained(run)
    assert [found.step for found in run.checkpoints()] == [4, 8] and not hidden(run)
    assert Session(run).state.step == 8


def test_figures_that_cannot_be_written_come_later_and_in_order(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = small_run(tmp_path / "run", tiny_text, SETTINGS), Run.append_metrics
    calls = iter(range(1000))

    def append_metrics(self: Run, row: dict[str, Any]) -> None:
        if 2 <= next(calls) < 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, row)

    monkeypatch.setattr(Run, "append_metrics", append_metrics)
    trained(run)
    assert [row["step"] for row in run.metrics() if "loss" in row] == list(range(1, 13))


def test_what_a_killed_save_left_is_removed_by_the_next(copied_run: Run) -> None:
    left = copied_run.checkpoint_folder / ".step_00000008.99999"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert llamita("resume", copied_run.path, "--training.steps", 9).code == 0
    assert not hidden(copied_run)


def test_half_a_line_of_figures_does_not_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_metrics({"step": 1})
    before, limits = run.metrics_file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            run.append_metrics({"step": 2, "loss": 1.0})
        with pytest.raises(OSError, match="too large"):
            write_text(run.path / "other.txt", "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.metrics_file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_process_that_may_write_no_large_file_ends_with_a_message(tiny_text: Path, tmp_path: Path) -> None:
    often = ("--training.save-every", "2", "--training.steps", "6", "--training.log-every", "1")
    command = ["train", str(tiny_text), "--run", str(tmp_path / "run"), *TINY, *often]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        f"from llamita.cli.app import main; main({command!r})"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "step 2 isn't saved" in done.stdout and "step_00000006: can't be written" in done.stderr
    run = Run.open(tmp_path / "run")
    assert not run.checkpoints() and not hidden(run)
    assert [row["step"] for row in run.metrics() if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_the_run_is_held_until_a_save_that_began_is_over_whatever_ends_it(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun = saving.save_checkpoint, threading.Event()

    def slow(*arguments: Any) -> object:
        begun.set()
        time.sleep(0.3)
        return real(*arguments)

    monkeypatch.setattr(saving, "save_checkpoint", slow)
    run = small_run(tmp_path / "run", tiny_text, SETTINGS)
    events = Session(run).events()
    while not begun.is_set():
        next(events)
    with pytest.raises(SystemExit):
        events.throw(SystemExit(130))
    with writing(run.path):
        assert [found.step for found in run.checkpoints()] == [4]
