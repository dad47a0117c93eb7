"""Files of strangers are read up to a limit."""

import os
import threading
from pathlib import Path

import pytest

from llamita.files import read_text


def test_a_file_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for size in (0, 1, 9, 10):
        file.write_text("é" * (size // 2) + "a" * (size % 2), encoding="utf-8")
        assert len(read_text(file, 10).encode()) == size
    file.write_text("a" * 11, encoding="utf-8")
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_text(file, 10)


def test_what_has_no_end_takes_no_more_than_its_limit(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="more than 5,000,000 bytes"):
        read_text(Path("/dev/zero"), 5_000_000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_text(tmp_path / "sparse", 1000)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("from a pipe",))
    writer.start()
    assert read_text(tmp_path / "pipe", 100) == "from a pipe"
    writer.join()


def test_another_encoding_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "file", 10)
