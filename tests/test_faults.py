"""The power cuts of the tests: what is left is what was synced, and perhaps more."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llamita.files import File, sync_folder, write_text
from tests.faults import Disk, ended, forked, lose_power


def write(path: Path, text: str, mode: str = "x", sync: bool = True) -> None:
    with File(path, mode) as file:
        file.write(text.encode())
        if sync:
            file.sync()


def left(root: Path, work: Callable[[], object], chance: random.Random | None = None) -> dict[str, str | None]:
    """Files with their text, and folders, that are left of some work by a power cut."""
    with Disk(root=root, chance=chance).watched() as disk:
        work()
        disk.cut_power()
    return {str(path.relative_to(root)): path.read_text() if path.is_file() else None for path in root.rglob("*")}


def test_what_is_synced_stays(tmp_path: Path) -> None:
    (tmp_path / "before").write_text("there")

    def work() -> None:
        (tmp_path / "folder").mkdir()
        sync_folder(tmp_path)
        write(tmp_path / "folder" / "file", "text")
        sync_folder(tmp_path / "folder")

    assert left(tmp_path, work) == {"before": "there", "folder": None, "folder/file": "text"}


def test_bytes_without_a_sync_go(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old, ")

    def work() -> None:
        write(tmp_path / "never", "text", sync=False)
        write(tmp_path / "file", "synced")
        write(tmp_path / "file", " and not", "a", sync=False)
        write(tmp_path / "old", "new", "a", sync=False)
        sync_folder(tmp_path)

    assert left(tmp_path, work) == {"never": "", "file": "synced", "old": "old, "}


def test_what_was_overwritten_or_cut_off_without_a_sync_comes_back(tmp_path: Path) -> None:
    for name in ("cut", "overwritten"):
        (tmp_path / name).write_text("long text")

    def work() -> None:
        os.truncate(tmp_path / "cut", 2)
        write(tmp_path / "overwritten", "short", "w", sync=False)

    assert left(tmp_path, work) == {"cut": "long text", "overwritten": "long text"}


def test_names_without_a_sync_go(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    def work() -> None:
        write(tmp_path / "file", "text")
        (tmp_path / "new").mkdir()
        write(tmp_path / "new" / "file", "text")
        sync_folder(tmp_path / "new")
        os.close(os.open(tmp_path / "folder" / "opened", os.O_CREAT | os.O_WRONLY))

    assert left(tmp_path, work) == {"folder": None}


@pytest.mark.parametrize("synced", [False, True])
def test_names_change_when_their_folder_is_synced(synced: bool, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("x")

    def work() -> None:
        os.replace(tmp_path / "a", tmp_path / "b")
        (tmp_path / "x").rename(tmp_path / "y")
        (tmp_path / "c").unlink()
        if synced:
            sync_folder(tmp_path)

    before = {"a": "a", "b": "b", "c": "c", "x": None, "x/file": "x"}
    assert left(tmp_path, work) == ({"b": "a", "y": None, "y/file": "x"} if synced else before)


def test_a_whole_file_is_there_once_it_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    assert left(tmp_path, lambda: write_text(tmp_path / "file", "new")) == {"file": "new"}


def test_by_chance_more_is_left_than_was_synced(tmp_path: Path) -> None:
    seen = set()
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()

        def work(folder: Path = folder) -> None:
            write(folder / "a", "12")
            sync_folder(folder)
            write(folder / "a", "3", "a", sync=False)
            os.replace(folder / "a", folder / "b")

        found = left(folder, work, random.Random(seed))
        assert len(found) == 1
        seen.update(found.items())
    assert seen == {(name, text) for name in "ab" for text in ("12", "12\0", "123")}


def test_nothing_is_written_after_a_power_cut(tmp_path: Path) -> None:
    def work() -> None:
        with Disk(4, "before", lose_power, root=tmp_path).watched():
            for number in range(9):
                write(tmp_path / str(number), "text")
                sync_folder(tmp_path)

    assert ended(forked(work)) == -9
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "text"}
