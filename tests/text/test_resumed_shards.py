"""Shards that were interrupted at any moment become, byte for byte, what they would have been without."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llamita.errors import UserError
from llamita.text import shards
from llamita.text.shards import Corpora, open_corpora, remove_journal, resume_shards, write_shards
from tests.faults import Disk, Moment, die, ended, forked, lose_power
from tests.stopped import moments, stopped_at

TEXTS = [f"{number}: " + "a few words, " * (number * 7 % 5) + "and an end\n" for number in range(10)]


@dataclass(frozen=True)
class Document:
    text: str


class Interrupted(BaseException):
    """As Ctrl-C."""


@dataclass(frozen=True)
class ByteEncoder:
    """A token a byte; notes what it was given, and is interrupted when that gets too much."""

    fingerprint: str = "bytes"
    bos_id: int | None = 256
    vocab_size: int = 257
    most: int = 1000
    texts: list[str] = field(default_factory=list)

    def get_vocab_size(self) -> int:
        return self.vocab_size

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if len(self.texts) + len(texts) > self.most:
            raise Interrupted
        self.texts.extend(texts)
        return [list(text.encode()) for text in texts]


SETTINGS: dict[str, Any] = {"key": "k", "validation_fraction": 0.3, "seed": 0, "shard_tokens": 100, "journal_bytes": 60}


@pytest.fixture(autouse=True)
def small_groups_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_DOCUMENTS", 2)
    # Only a power cut tells a synced file from another, and `Disk` knows those.
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def prepare(folder: Path, encoder: ByteEncoder | None = None, **settings: Any) -> Corpora:
    encoder = encoder or ByteEncoder()
    return resume_shards(lambda number: map(Document, TEXTS[number:]), encoder, folder, **(SETTINGS | settings))


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the journal."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "journal.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def whole(folder: Path, **settings: Any) -> dict[str, bytes]:
    """What an uninterrupted preparation gives."""
    prepare(folder, **settings)
    return content(folder)


def interrupt(folder: Path, most: int = 7, **settings: Any) -> None:
    """Prepare until so many texts are encoded."""
    with pytest.raises(Interrupted):
        prepare(folder, ByteEncoder(most=most), **settings)


def stop(folder: Path, number: int, moment: Moment, **settings: Any) -> None:
    """Prepare until a call."""
    with stopped_at(number, moment):
        prepare(folder, **settings)


def kill(folder: Path, number: int, moment: Moment, death: Callable[[Disk], None] = die, **settings: Any) -> int:
    """Prepare in another process that dies at a call; gives how it ended."""

    def work() -> None:
        with Disk(number, moment, death, root=folder.parent).watched():
            prepare(folder, **settings)

    return ended(forked(work))


KINDS: dict[str, dict[str, Any]] = {
    "documents": {},
    "tail": {"validation_fraction": 0.01},
    "none": {"validation_fraction": 0.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_uninterrupted_preparation_is_what_writing_shards_gives(kind: str, tmp_path: Path) -> None:
    fraction = KINDS[kind].get("validation_fraction", 0.3)
    options: dict[str, Any] = {"validation_fraction": fraction, "seed": 0, "shard_tokens": 100}
    written = write_shards(map(Document, TEXTS), ByteEncoder(), tmp_path / "written", **options)
    noted = prepare(tmp_path / "noted", **KINDS[kind])
    assert written.split == noted.split == kind
    assert len(noted.train.shards) > 2
    assert content(tmp_path / "written") == content(tmp_path / "noted")
    assert not (tmp_path / "written" / "journal.json").exists()


@pytest.mark.parametrize(
    ("kind", "step"), [("documents", 1), ("tail", 3), pytest.param("tail", 1, marks=pytest.mark.slow)]
)
def test_stopped_at_any_moment_it_goes_on_to_the_same_bytes(kind: str, step: int, tmp_path: Path) -> None:
    settings, folder = KINDS[kind], tmp_path / "stopped"
    expected = whole(tmp_path / "whole", **settings)
    for number, moment in moments(lambda: prepare(tmp_path / "counted", **settings))[::step]:
        stop(folder, number, moment, **settings)
        prepare(folder, **settings)
        assert content(folder) == expected, (number, moment)
        shutil.rmtree(folder)


@pytest.mark.parametrize("death", [die, lose_power])
def test_a_process_that_dies_is_gone_on_with(death: Callable[[Disk], None], tmp_path: Path) -> None:
    folder, expected = tmp_path / "killed", whole(tmp_path / "whole")
    for number, moment in moments(lambda: prepare(tmp_path / "counted"))[::7]:
        assert kill(folder, number, moment, death) == -signal.SIGKILL
        prepare(folder)
        assert content(folder) == expected, (number, moment)
        shutil.rmtree(folder)


def test_a_stopped_resumption_is_gone_on_with_too(tmp_path: Path) -> None:
    folder, left, expected = tmp_path / "stopped", tmp_path / "left", whole(tmp_path / "whole")
    stop(left, len(moments(lambda: prepare(tmp_path / "counted"))) // 3, "before")
    shutil.copytree(left, folder)
    for number, moment in moments(lambda: prepare(folder))[::2]:
        shutil.rmtree(folder)
        shutil.copytree(left, folder)
        stop(folder, number, moment)
        prepare(folder)
        assert content(folder) == expected, (number, moment)


@pytest.mark.parametrize("lives_for", [31, 41, 51])
def test_it_comes_to_an_end_however_often_it_is_killed(lives_for: int, tmp_path: Path) -> None:
    folder, deaths = tmp_path / "killed", 0
    while kill(folder, lives_for, "before") != 0:
        deaths += 1
        assert deaths < 20
    assert deaths > 1
    assert content(folder) == whole(tmp_path / "whole")


def test_what_a_journal_tells_of_is_neither_read_nor_encoded_again(tmp_path: Path) -> None:
    interrupt(tmp_path)
    noted = json.loads((tmp_path / "journal.json").read_bytes())
    assert noted["documents"] == 6
    asked: list[int] = []
    told: list[int] = []
    encoder = ByteEncoder()

    def documents_from(number: int) -> Iterator[Document]:
        asked.append(number)
        return map(Document, TEXTS[number:])

    resume_shards(documents_from, encoder, tmp_path, **SETTINGS, resumed=told.append)
    assert asked == [noted["documents"]]
    assert encoder.texts == TEXTS[noted["documents"] :]
    assert told == [noted["text_bytes"]] == [sum(len(text) for text in TEXTS[: noted["documents"]])]


def test_an_interruption_costs_as_much_text_as_lies_between_two_notes(tmp_path: Path) -> None:
    for most in range(1, len(TEXTS)):
        folder, first, second = tmp_path / str(most), ByteEncoder(most=most), ByteEncoder()
        with pytest.raises(Interrupted):
            prepare(folder, first, shard_tokens=1000)
        prepare(folder, second, shard_tokens=1000)
        again = len("".join(first.texts)) + len("".join(second.texts)) - len("".join(TEXTS))
        assert 0 <= again < SETTINGS["journal_bytes"]


def test_progress_goes_on_where_it_stood(tmp_path: Path) -> None:
    interrupt(tmp_path)
    noted = json.loads((tmp_path / "journal.json").read_bytes())["text_bytes"]
    told: list[int] = []
    prepare(tmp_path, progress=told.append)
    assert told == sorted(told) and told[0] > noted and told[-1] == len("".join(TEXTS))


def test_a_finished_preparation_is_opened_until_its_journal_is_removed(tmp_path: Path) -> None:
    expected, encoder = whole(tmp_path), ByteEncoder()
    prepare(tmp_path, encoder)
    assert content(tmp_path) == expected and not encoder.texts
    remove_journal(tmp_path)
    remove_journal(tmp_path)
    prepare(tmp_path, encoder)
    assert content(tmp_path) == expected and encoder.texts == TEXTS


OTHERS: list[dict[str, Any]] = [
    {"key": "other"},
    {"key": None},
    {"seed": 1},
    {"validation_fraction": 0.4},
    {"validation_fraction": 0.0},
    {"shard_tokens": 120},
    {"encoder": ByteEncoder("others")},
    {"encoder": ByteEncoder(bos_id=None)},
    {"encoder": ByteEncoder(vocab_size=2**17)},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_what_was_prepared_otherwise_is_not_gone_on_with(other: dict[str, Any], tmp_path: Path) -> None:
    interrupt(tmp_path / "run")
    told: list[int] = []
    prepare(tmp_path / "run", **other, resumed=told.append)
    assert told == []
    assert content(tmp_path / "run") == whole(tmp_path / "fresh", **other)


def first_part(folder: Path) -> Path:
    return min(folder.rglob("shard_*.bin.part"))


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def zero_out(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shorten(folder / "train" / "shard_00000.bin"),
        lambda folder: (folder / "train" / "shard_00000.bin").unlink(),
        lambda folder: (folder / "train" / "shard_00000.documents.npy").unlink(),
        lambda folder: shorten(first_part(folder)),
        lambda folder: first_part(folder).unlink(),
        lambda folder: zero_out(first_part(folder)),
        lambda folder: zero_out(folder / "train" / "shard_00000.bin"),
        lambda folder: shutil.rmtree(folder / "train"),
        lambda folder: (folder / "journal.json").write_text("{"),
        lambda folder: (folder / "journal.json").write_text("[]"),
        lambda folder: (folder / "journal.json").write_text("{}"),
        lambda folder: (folder / "journal.json").unlink(),
    ],
)
def test_what_is_damaged_is_begun_anew(damage: Callable[[Path], object], tmp_path: Path) -> None:
    interrupt(tmp_path / "run")
    damage(tmp_path / "run")
    told: list[int] = []
    prepare(tmp_path / "run", resumed=told.append)
    assert told == []
    assert content(tmp_path / "run") == whole(tmp_path / "fresh")


def test_a_full_disk_is_told_of_and_gone_on_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, real = whole(tmp_path / "whole"), os.write
    with Disk().watched() as disk:
        prepare(tmp_path / "counted")
    encoded = []
    for full_from in range(disk.calls.count("write")):
        folder, calls = tmp_path / str(full_from), iter(range(1000))

        def write(descriptor: int, data: Any, calls: Iterator[int] = calls, full_from: int = full_from) -> int:
            if next(calls) < full_from:
                return real(descriptor, data)
            if len(data) > 1:
                return real(descriptor, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", write)
        for _ in range(2):
            with pytest.raises(UserError, match=r"can't be written \(No space left on device\); make room there"):
                prepare(folder)
        monkeypatch.setattr(os, "write", real)
        encoder = ByteEncoder()
        prepare(folder, encoder)
        assert content(folder) == expected
        encoded.append(len(encoder.texts))
    assert encoded[0] == len(TEXTS) and encoded[-1] == 0


def test_an_interrupted_call_without_a_key_is_begun_anew(tmp_path: Path) -> None:
    interrupt(tmp_path / "run", key=None)
    written = write_shards(map(Document, TEXTS), ByteEncoder(), tmp_path / "run", validation_fraction=0.3)
    assert written.train.documents + (written.validation.documents if written.validation else 0) == len(TEXTS)
    write_shards(map(Document, TEXTS), ByteEncoder(), tmp_path / "fresh", validation_fraction=0.3)
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


SLOW = """
import sys, time
from pathlib import Path
from tests.text.test_resumed_shards import TEXTS, ByteEncoder, Document
from llamita.text.shards import resume_shards

class SlowEncoder(ByteEncoder):
    def encode_batch(self, texts):
        time.sleep(0.02)
        return super().encode_batch(texts)

resume_shards(
    lambda number: (Document(text * 3000) for text in (TEXTS * 10)[number:]), SlowEncoder(), Path(sys.argv[1]),
    key="k", validation_fraction=0.2, shard_tokens=4_000_000, journal_bytes=2**20,
    progress=lambda done: print(done, flush=True),
)
"""


def test_a_real_process_is_killed_over_and_over(tmp_path: Path) -> None:
    def started() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", SLOW, str(tmp_path / "killed")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    seen: list[int] = []
    for _ in range(3):
        process = started()
        assert process.stdout is not None
        seen += [int(process.stdout.readline()) for _ in range(3)]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert seen[0] < seen[3] < seen[6]
    with started() as process:
        output, _ = process.communicate()
    assert process.returncode == 0 and int(output.split()[0]) > seen[6]
    corpora = open_corpora(tmp_path / "killed")
    texts = (Document(text * 3000) for text in TEXTS * 10)
    write_shards(texts, ByteEncoder(), tmp_path / "whole", validation_fraction=0.2, shard_tokens=4_000_000)
    assert len(corpora.train.shards) > 2
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
