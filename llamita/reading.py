"""Small files read with a limit: what a stranger made may be larger than memory, or have no end at all."""

import errno
import os
from pathlib import Path

_CHUNK = 1 << 20


def read_text(path: Path, limit: int) -> str:
    """The text of a file in UTF-8; OSError for more than `limit` bytes, UnicodeDecodeError for another encoding."""
    parts: list[bytes] = []
    left = limit
    with path.open("rb") as file:
        while left >= 0 and (part := file.read(min(_CHUNK, left + 1))):
            parts.append(part)
            left -= len(part)
    if left < 0:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: more than {limit:,} bytes", str(path))
    return b"".join(parts).decode("utf-8")
