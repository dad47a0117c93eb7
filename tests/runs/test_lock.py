"""Two real processes and one run folder."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamita.errors import UserError
from llamita.runs import lock
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.training.session import Session
from tests.cli.command_line import llamita

HOLDER = """
import sys, time
from pathlib import Path
from llamita.runs.lock import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        told = f"{tmp_path} is being written by process {process.pid} on {socket.gethostname()}; wait for it"
        with pytest.raises(UserError, match=told), writing(tmp_path):
            raise AssertionError
        process.communicate("\n")
    with writing(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_owner_was_killed_is_no_lock(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / "lock.json").exists()
        with writing(tmp_path):
            assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_whoever_waits_at_a_removed_lock_file_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = lock._lock

    def slow(descriptor: int) -> bool:
        # The former owner lets go between opening and locking, once.
        monkeypatch.setattr(lock, "_lock", taken)
        (tmp_path / "lock.json").unlink()
        return taken(descriptor)

    monkeypatch.setattr(lock, "_lock", slow)
    with writing(tmp_path), pytest.raises(UserError, match="is being written by process"), writing(tmp_path):
        raise AssertionError


def test_a_run_that_is_written_is_neither_resumed_nor_replaced(copied_run: Run) -> None:
    def content() -> dict[Path, bytes]:
        files = [path for path in copied_run.path.rglob("*") if path.is_file() and path.name != "lock.json"]
        return {path: path.read_bytes() for path in files}

    before = content()
    with held_elsewhere(copied_run.path) as process:
        refused = llamita("resume", copied_run.path, "--training.steps", 10)
        assert refused.code == 1 and f"process {process.pid}" in refused.err
        assert content() == before
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert llamita("resume", copied_run.path, "--training.steps", 9).code == 0
    assert not (copied_run.path / "lock.json").exists()


def test_a_session_that_was_overtaken_does_not_go_back(copied_run: Run) -> None:
    config = copied_run.config()
    late = Session(copied_run)
    assert llamita("resume", copied_run.path, "--training.steps", config.training.steps + 1).code == 0
    with pytest.raises(UserError, match="has gone on to step 9 meanwhile"):
        next(iter(late.events()))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), writing(tmp_path / "file"):
        raise AssertionError


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_a_lock_file_that_cannot_be_filled_in_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(3):
            with pytest.raises(UserError, match="cannot be written.*No space left"), writing(tmp_path):
                raise AssertionError
    assert descriptors() == before and not list(tmp_path.iterdir())
    with writing(tmp_path):
        assert descriptors() == before + 1
        with pytest.raises(UserError, match="is being written by process"), writing(tmp_path):
            raise AssertionError
        assert descriptors() == before + 1
    assert descriptors() == before


def test_an_error_while_it_is_held_lets_it_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError
    with writing(tmp_path):
        assert (tmp_path / "lock.json").exists()
    assert not list(tmp_path.iterdir())
