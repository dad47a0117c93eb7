"""Files that are on the disk as a whole or not at all: written aside, synced, and named by one rename.

Every byte goes through functions of `os`, so that a test can stop the world before and after each of them.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 24  # bytes written in one call, so that a writer can be stopped between two


class File(io.FileIO):
    """An unbuffered file that writes all it is given; OSError where that can't be."""

    def write(self, data: Any, /) -> int:
        """Write all of it, in calls that each take a few milliseconds; gives the number of bytes."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.write(self.fileno(), view[done : done + _CHUNK])
        return done

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file in the place of what bears its name: readers see the old content or the new, never a part.

    After an error the old content stays and nothing is left aside.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with File(aside, "w") as raw:
            buffered = io.BufferedWriter(raw)
            yield buffered
            buffered.flush()
            raw.sync()
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    content = text.encode()
    with whole_file(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
