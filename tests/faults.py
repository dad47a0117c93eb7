"""Faults at chosen moments: a process that dies before, within or after any call that changes a disk."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "truncate", "ftruncate")
Moment = Literal["before", "within", "after"]


@dataclass
class Disk:
    """Watches the calls that change the disk; at the call of some number it does what it's told to.

    A write that is interrupted has written half of its bytes. `lose_unsynced` is what a power cut does: all that
    was written but not synced is gone from the files that it went to. Calls at which `counts` is false have no number.
    """

    number: int = -1
    moment: Moment = "before"
    act: Callable[["Disk"], None] = lambda _disk: None
    counts: Callable[[], bool] = lambda: True
    calls: list[str] = field(default_factory=list)
    _unsynced: dict[int, int] = field(default_factory=dict)
    _real: dict[str, Any] = field(default_factory=lambda: {name: getattr(os, name) for name in CALLS})

    @contextmanager
    def watched(self) -> Iterator["Disk"]:
        """Watch until the block ends."""
        try:
            for name in CALLS:
                setattr(os, name, self._wrapped(name))
            yield self
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)
            # A copy of a descriptor would keep a file locked.
            for copy in self._unsynced.values():
                os.close(copy)

    def lose_unsynced(self) -> None:
        """Empty every file of which something isn't synced."""
        for copy in self._unsynced.values():
            self._real["ftruncate"](copy, 0)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*arguments: Any, **named: Any) -> Any:
            counts = self.counts()
            due = counts and len(self.calls) == self.number
            if counts:
                self.calls.append(name)
            if due and self.moment == "before":
                self.act(self)
            if due and self.moment == "within" and name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                self._note(name, arguments)
                self.act(self)
            try:
                result = real(*arguments, **named)
                self._note(name, arguments)
            finally:
                if due and self.moment == "after":
                    self.act(self)
            return result

        return call

    def _note(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name not in ("write", "fsync"):
            return
        inode = os.fstat(arguments[0]).st_ino
        if name == "write" and inode not in self._unsynced:
            self._unsynced[inode] = os.dup(arguments[0])
        elif name == "fsync" and inode in self._unsynced:
            os.close(self._unsynced.pop(inode))


def die(_disk: Disk | None = None) -> NoReturn:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    raise AssertionError("still alive")


def lose_power(disk: Disk) -> NoReturn:
    """End this process, and with it what the disk wasn't made to keep."""
    disk.lose_unsynced()
    die()


def in_background() -> bool:
    """Whether this is another thread than the one that trains, which is the one that saves."""
    return threading.current_thread() is not threading.main_thread()


def forked(work: Callable[[], object]) -> int:
    """Start a copy of this process that does some work and ends: with exit code 0, or 1 after an error."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a process ended: its exit code, or the negative number of the signal that killed it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
