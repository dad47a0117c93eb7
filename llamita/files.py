"""Files that are on the disk as a whole or not at all: written aside, synced, and named by one rename.

Every byte goes through functions of `os`, so that a test can stop the world before and after each of them.
"""

import errno
import glob
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 24  # bytes written in one call, so that a writer can be stopped between two
_BLOCK = 1 << 12
_DAY = 86400  # seconds, after which nobody writes any more what lies aside
_PART = 1 << 20  # bytes read at a time, of files that a stranger made and that may have no end


class File(io.FileIO):
    """An unbuffered file that writes all it is given; OSError where that can't be."""

    def write(self, data: Any, /) -> int:
        """Write all of it, in calls that each take a few milliseconds; gives the number of bytes."""
        whole = memoryview(data)
        if not whole.nbytes:
            return 0
        view = whole.cast("B")
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


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, or nothing at all if it can't be written; half a line that a kill left goes."""
    with File(path, "a+") as file:
        end = _end_of_lines(file)
        try:
            if end < file.seek(0, os.SEEK_END):
                os.truncate(path, end)
            file.write(line.encode() + b"\n")
        except OSError:
            os.truncate(path, end)
            raise


def _end_of_lines(file: File) -> int:
    """The place after the last line end of a file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(end - _BLOCK, 0)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def remove_asides(folder: Path, *names: str) -> None:
    """Remove what killed writers of whole files of these names left in a folder; nobody may be writing there."""
    for name in names:
        for path in folder.glob(f".{name}.*"):
            if path.suffix[1:].isdecimal() and path.is_file():
                path.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder, unless it is there, and those it lies in, and wait until their names are on the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder aside, which gets its name when all is on the disk: readers see all of it or nothing.

    Files in it must be synced by who writes them. Nothing is left aside after an error; what killed writers left goes
    after a day.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    make_folder(aside)
    try:
        yield aside
        sync_folder(aside)
        os.rename(aside, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Wait until a file that another library wrote is on the disk."""
    with File(path, "r+") as file:
        file.sync()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can and the folder may be read."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def read_text(path: Path, limit: int) -> str:
    """The text of a file in UTF-8; OSError for more than `limit` bytes, UnicodeDecodeError for another encoding."""
    parts: list[bytes] = []
    left = limit
    with path.open("rb") as file:
        while left >= 0 and (part := file.read(min(_PART, left + 1))):
            parts.append(part)
            left -= len(part)
    if left < 0:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: more than {limit:,} bytes", str(path))
    return b"".join(parts).decode("utf-8")
