"""Damage to a folder: to one of its files, or by what doesn't belong there."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from hypothesis import strategies as st

from tests.fuzz.edits import (
    ByteEdit,
    JsonEdit,
    LineEdit,
    NumberEdit,
    byte_edits,
    edited,
    json_edited,
    json_edits,
    line_edits,
    lines_edited,
    number_edits,
    numbers_edited,
    places,
    with_header,
)
from tests.signed import write_meta

Deed = Literal[
    "delete", "empty", "folder", "pipe", "socket", "link out", "link in", "link to itself", "huge", "swap", "double"
]
Work = Deed | Sequence[LineEdit] | Sequence[JsonEdit] | Sequence[ByteEdit] | Sequence[NumberEdit]
deeds = st.sampled_from(get_args(Deed))


@dataclass(frozen=True)
class Damage:
    """What is done to a file of a run; `signed` has the checksums agree with what came of it."""

    name: str
    which: float
    work: Work
    signed: bool = False


SHARDS = st.sampled_from(["shard_*.bin", "shard_*.npy"])
damages = st.one_of(
    st.builds(Damage, name=st.just("*"), which=places, work=deeds),
    st.builds(Damage, name=st.just("*"), which=places, work=byte_edits),
    st.builds(Damage, name=st.just("config.toml"), which=st.just(0.0), work=line_edits),
    st.builds(Damage, name=st.just("*.json*"), which=places, work=json_edits),
    st.builds(Damage, name=st.just("meta.json"), which=places, work=json_edits, signed=st.booleans()),
    st.builds(Damage, name=st.just("*.safetensors"), which=places, work=json_edits, signed=st.booleans()),
    st.builds(Damage, name=st.just("*.safetensors"), which=places, work=byte_edits, signed=st.just(True)),
    st.builds(Damage, name=SHARDS, which=places, work=byte_edits),
    st.builds(Damage, name=SHARDS, which=places, work=number_edits),
)


def damage(folder: Path, done: Damage, outside: Path) -> None:
    """Damage a file of a folder."""
    files = sorted(path for path in folder.rglob(done.name) if path.is_file() and path.stat().st_size < 1 << 24)
    if not files:
        return
    path = files[int(done.which * len(files))]
    if isinstance(done.work, str):
        done_to(path, files[0], outside, done.work)
        return
    with contextlib.suppress(OSError, ValueError, RecursionError, LookupError):  # damaged before
        path.write_bytes(worked(path, done.work))
        if done.signed:
            sign(path.parent)


def done_to(path: Path, other: Path, outside: Path, deed: Deed) -> None:
    """Do something to a file of a folder; `other` is another one in it, `outside` a file that is none of it."""
    match deed:
        case "double":
            shutil.copy(path, path.with_name(f"{path.name}\udcff"))
        case "swap":
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
        case "huge":
            with path.open("ab") as file:
                file.truncate(1 << 40)
        case _:
            path.unlink(missing_ok=True)
            replace(path, other, outside, deed)


def replace(path: Path, other: Path, outside: Path, deed: Deed) -> None:
    match deed:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "link out":
            path.symlink_to(outside)
        case "link in":
            path.symlink_to(other)
        case "link to itself":
            path.symlink_to(path.name)


def worked(path: Path, work: Sequence[LineEdit | JsonEdit | ByteEdit | NumberEdit]) -> bytes:
    """The content of a file after edits."""
    content = path.read_bytes()
    lines = [edit for edit in work if isinstance(edit, LineEdit)]
    changes = [edit for edit in work if isinstance(edit, JsonEdit)]
    numbers = [edit for edit in work if isinstance(edit, NumberEdit)]
    if lines:
        return lines_edited(content.decode(), lines)
    if numbers:
        return numbers_edited(content, numbers)
    if not changes:
        return edited(content, [edit for edit in work if isinstance(edit, ByteEdit)])
    if path.suffix == ".safetensors":
        return with_header(content, changes)
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        return json_edited(rows, changes).strip("[]").replace("}, {", "}\n{").encode() + b"\n"
    return json_edited(json.loads(content), changes).encode()


def sign(checkpoint: Path) -> None:
    """Have meta.json tell the checksums of the files as they are, as whoever makes a run to harm would."""
    meta = checkpoint / "meta.json"
    files = [checkpoint / name for name in ("model.safetensors", "state.safetensors")]
    if not all(path.is_file() and path.stat().st_size < 1 << 24 for path in (meta, *files)):
        return
    found = json.loads(meta.read_bytes())
    if not isinstance(found, dict) or not isinstance(found.get("sha256"), dict):
        return
    for path in files:
        found["sha256"][path.name] = sha256(path.read_bytes()).hexdigest()
    write_meta(checkpoint, found)


@dataclass(frozen=True)
class Stranger:
    """Something by the name of a run's part, or by another, in the place of what is there."""

    name: str
    is_a: Deed | bytes


FOREIGN = (".notes.12", "x\udcff", "[b]", "a" * 200, "deep/down/x")
NAMES = (
    *FOREIGN,
    *("config.toml", "tokenizer.json", "preparation.json", "lock.json", "environment.json", "metrics.jsonl"),
    *("checkpoints", "checkpoints/step_00000008", "checkpoints/step_00000001/meta.json", "samples", "report.json"),
    *("data", "data/index.json", "data/journal.json", "data/train", "data/train/shard_00000.bin", "data/validation"),
    *("data/train/shard_00000.bin.part", "data/train/shard_00000.documents.npy", "loss.png", "embeddings.svg"),
    ".config.toml.1",
)
strangers = st.builds(
    Stranger,
    name=st.sampled_from(NAMES),
    is_a=st.sampled_from(
        [*("delete", "empty", "folder", "pipe", "socket", "link out", "link in", "link to itself", "huge"), b"{}", b"x"]
    ),
)


def put(folder: Path, stranger: Stranger, outside: Path) -> None:
    """Put something there, unless what came before is in its way."""
    path = folder / stranger.name
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        if isinstance(stranger.is_a, bytes):
            path.unlink(missing_ok=True)
            path.write_bytes(stranger.is_a)
        else:
            done_to(path, folder / "tokenizer.json", outside, stranger.is_a)
