"""Commands in processes of their own, held up inside of a function of choice so that a signal meets them there."""

import ctypes
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

GRACE = 0.3  # seconds; what a user is given takes a test too long
PATIENCE = 60.0
# Importing torch once and forking from there takes milliseconds a process instead of seconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["llamita.cli.demo", "llamita.cli.resume", "llamita.cli.tokenizer"])


@dataclass(frozen=True)
class Held:
    """A command that stands still in a function; what it prints is in a file."""

    process: ForkServerProcess
    folder: Path
    printed_to: Path

    @property
    def printed(self) -> str:
        """All that was printed so far."""
        return self.printed_to.read_text(encoding="utf-8")

    def says(self, text: str) -> bool:
        """Wait until a text has been printed."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.printed and time.monotonic() < deadline:
            time.sleep(0.01)
        return text in self.printed

    def send(self, *numbers: int) -> None:
        """Send signals shortly after each other."""
        assert self.process.pid is not None
        for number in numbers:
            if self.process.is_alive():
                os.kill(self.process.pid, number)
            time.sleep(0.05)

    def code(self) -> int:
        """Let it go on to its end; the exit code as a shell tells it."""
        (self.folder / "go").touch()
        return self.ended()

    def ended(self) -> int:
        """The exit code of a command that ends without going on; a negative number if a signal killed it."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it didn't end: {self.printed}")
        return self.process.exitcode


def held(
    arguments: Sequence[object], place: str, folder: Path, *, native: bool = False, at_call: int = 1, out: str = ""
) -> Held:
    """Start a command and wait until it has come to a place, "module:name", for the n-th time."""
    folder.mkdir(parents=True, exist_ok=True)
    printed_to = folder / "printed"
    command = [str(argument) for argument in arguments]
    how = (command, place, folder, native, at_call, out or str(printed_to))
    process = _FORKS.Process(target=_run, args=how, daemon=True)
    process.start()
    deadline = time.monotonic() + PATIENCE
    while not (folder / "ready").exists():
        assert process.is_alive() and time.monotonic() < deadline, printed_to.read_text(encoding="utf-8")
        time.sleep(0.005)
    return Held(process, folder, printed_to)


def _run(arguments: list[str], place: str, folder: Path, native: bool, at_call: int, out: str) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    # The streams that are there were made for what the descriptors led to before.
    sys.stdout, sys.stderr = (
        open(one, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process is
        for one in (1, 2)
    )
    os.environ["TERM"] = "xterm"
    sys.argv = ["llamita", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.import_module("llamita.cli.stopping").__dict__["_GRACE"] = GRACE
    _hold_up(place, folder, _wait_in_native_code if native else _wait, at_call)
    importlib.import_module("llamita.cli.app").main()


def _hold_up(place: str, folder: Path, wait: Callable[[Path], None], at_call: int) -> None:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for one in classes:
        owner = getattr(owner, one)
    real = getattr(owner, name)
    calls = 0

    @functools.wraps(real)
    def holding(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            (folder / "ready").touch()
            wait(folder / "go")
        return real(*arguments, **named)

    is_bound = classes and hasattr(real, "__self__")
    setattr(owner, name, staticmethod(holding) if is_bound else holding)


def _wait(go: Path) -> None:
    while not go.exists():
        time.sleep(0.005)


def _wait_in_native_code(go: Path) -> None:
    """Wait for a mutex, which no signal interrupts."""
    pthreads, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)

    def unlock() -> None:
        _wait(go)
        pthreads.pthread_mutex_unlock(mutex)

    threading.Thread(target=unlock, daemon=True).start()
    pthreads.pthread_mutex_lock(mutex)
    pthreads.pthread_mutex_lock(mutex)
