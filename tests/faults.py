"""Faults at chosen moments: a process that dies before, within or after any call that changes a disk."""

import os
import random
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "truncate", "ftruncate")
Moment = Literal["before", "within", "after"]


@dataclass
class Disk:
    """Watches the calls that change the disk; at the call of some number it does what it's told to.

    A write that is interrupted has written half of its bytes. Calls at which `counts` is false have no number. What
    lies in the folder `root` can lose its power. `chance` decides what is left then; without it, all is lost that
    can be.
    """

    number: int = -1
    moment: Moment = "before"
    act: Callable[["Disk"], None] = lambda _disk: None
    counts: Callable[[], bool] = lambda: True
    root: Path | None = None
    chance: random.Random | None = None
    calls: list[str] = field(default_factory=list)
    _names: list[dict[int, dict[str, int]]] = field(default_factory=list)  # in every folder, whenever they changed
    _synced_names: dict[int, int] = field(default_factory=dict)  # of a folder: a place in that list
    _synced_bytes: dict[int, bytes] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)  # descriptors: no inode in it is given to another file
    _cut: bool = False
    _lock: Any = field(default_factory=threading.RLock)
    _real: dict[str, Any] = field(default_factory=lambda: {name: getattr(os, name) for name in CALLS})

    @contextmanager
    def watched(self) -> Iterator["Disk"]:
        """Watch until the block ends."""
        self._look()
        self._synced_bytes = {inode: self._bytes(inode) for inode in self._held if not self._is_folder(inode)}
        try:
            for name in CALLS:
                setattr(os, name, self._wrapped(name))
            yield self
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)
            while self._held:
                os.close(self._held.popitem()[1])

    def cut_power(self) -> None:
        """Make of the root what a power cut leaves: every file and the names in every folder as they last were synced.

        With `chance`, each file and each folder may have come further. Then the disk changes no more.
        """
        with self._lock:
            assert self.root is not None
            self._look()
            self._cut = True
            for path in self.root.iterdir():
                (shutil.rmtree if path.is_dir() else os.unlink)(path)
            self._restore(self.root, self.root.stat().st_ino)

    def _restore(self, folder: Path, inode: int) -> None:
        at = self._synced_names.get(inode, 0)
        if self.chance:
            at = self.chance.randint(at, len(self._names) - 1)
        for name, inside in self._names[at].get(inode, {}).items():
            if self._is_folder(inside):
                (folder / name).mkdir()
                self._restore(folder / name, inside)
            else:
                (folder / name).write_bytes(self._left(inside))

    def _left(self, inode: int) -> bytes:
        synced = self._synced_bytes.get(inode, b"")
        if not self.chance:
            return synced
        now = self._bytes(inode)
        kept = now[: self.chance.randint(min(len(synced), len(now)), len(now))]
        # Some file systems know the new size of a file before its bytes.
        return kept + bytes(self.chance.choice((0, len(now) - len(kept))))

    def _look(self) -> None:
        """Note all names that there are now."""
        waiting, names = [self.root] if self.root else [], dict[int, dict[str, int]]()
        while waiting:
            folder = waiting.pop()
            found = {path: path.lstat().st_ino for path in folder.iterdir()}
            names[folder.stat().st_ino] = {path.name: inode for path, inode in found.items()}
            for path, inode in found.items():
                if inode not in self._held:
                    self._held[inode] = self._real["open"](path, os.O_RDONLY)
                if self._is_folder(inode):
                    waiting.append(path)
        if not self._names or names != self._names[-1]:
            self._names.append(names)

    def _is_folder(self, inode: int) -> bool:
        return stat.S_ISDIR(os.fstat(self._held[inode]).st_mode)

    def _bytes(self, inode: int) -> bytes:
        return os.pread(self._held[inode], os.fstat(self._held[inode]).st_size, 0)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            # Whoever comes after a power cut waits for the end.
            with self._lock:
                return (self._real[name] if self._cut else self._watch(name))(*arguments, **named)

        return call

    def _watch(self, name: str) -> Callable[..., Any]:
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
        self._look()
        if name != "fsync":
            return
        inode = os.fstat(arguments[0]).st_ino
        if inode in self._names[-1]:
            self._synced_names[inode] = len(self._names) - 1
        elif inode in self._held:
            self._synced_bytes[inode] = self._bytes(inode)


def die(_disk: Disk | None = None) -> NoReturn:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    raise AssertionError("still alive")


def lose_power(disk: Disk) -> NoReturn:
    """End this process, and with it what the disk wasn't made to keep."""
    disk.cut_power()
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
