"""One writer a run folder: the second is told who the first is, and a lock whose owner died is no lock."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from llamita.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has none: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = "lock.json"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold a run folder for writing; UserError with host and process id if another process holds it.

    The operating system keeps the lock for as long as the process lives (flock), so a crash leaves nothing to
    clean up; lock.json only tells whose it is.
    """
    path = folder / LOCK
    with ExitStack() as stack:
        try:
            descriptor = _acquired(path)
            stack.callback(os.close, descriptor)
            # While it's still held: whoever opened it meanwhile sees that it's gone, and opens it again.
            stack.callback(path.unlink, missing_ok=True)
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}; choose another --run") from error
        yield


def _acquired(path: Path) -> int:
    """An open descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            if not _lock(descriptor):
                owner = _told(os.read(descriptor, 1000))
                raise UserError(f"{path.parent} is being written by {owner}; wait for it, or choose another --run")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    stack.pop_all()
                    return descriptor


def _lock(descriptor: int) -> bool:
    """Whether a file could be locked; a file system that has no locks takes any number of writers."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _told(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
