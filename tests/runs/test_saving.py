"""A save is whole or not there, whenever it is interrupted; saves overlap what else is done."""

import errno
import hashlib
import os
import random
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llamita.runs import saving
from llamita.runs.checkpoint import Checkpoint, checkpoints, load_state
from llamita.runs.saving import Saver, UnsavedError, prune_checkpoints, save_checkpoint, write_tensors
from tests.faults import Disk, Moment, die, ended, forked, lose_power

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]


def tensors(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((300, 7), value), "b": torch.tensor(value), "rng": torch.arange(9, dtype=torch.uint8)}


def saved(folder: Path, step: int) -> Checkpoint:
    return save_checkpoint(folder, tensors(step), tensors(-step), {"step": step, "tokens": 1, "position": {}})


def assert_whole(found: Checkpoint) -> None:
    """Both files of a checkpoint are as they were written, and one holds what was saved at its step."""
    for name in ("model.safetensors", "state.safetensors"):
        assert hashlib.sha256((found.path / name).read_bytes()).hexdigest() == found.meta["sha256"][name]
    loaded = load_state(found)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors(-found.step).items())


def test_tensors_are_written_as_the_safetensors_library_writes_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    many = {f"{kind}-{place} ü": (torch.randn(3, 5) * 9).to(kind) for kind in KINDS for place in range(2)}
    many |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "turned": torch.randn(4, 3).T}
    digest = write_tensors(tmp_path / "ours", many)
    save_file({name: tensor.contiguous() for name, tensor in many.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()


def calls_of_a_save(folder: Path, there: bool) -> list[str]:
    """The calls that change the disk while checkpoint 2 is saved, be one there already or not."""
    for step in (1, 2)[: 1 + there]:
        saved(folder, step)
    with Disk().watched() as disk:
        saved(folder, 2)
        prune_checkpoints(folder, keep_last=1)
    return disk.calls


def lose_some(disk: Disk) -> None:
    """A power cut that leaves more than was synced, by chance."""
    disk.chance = random.Random(disk.number)
    lose_power(disk)


DEATHS: list[tuple[Moment, Callable[[Disk], None]]] = [
    *(("before", die), ("within", die)),
    *(("before", lose_power), ("before", lose_some), ("within", lose_some)),
]


@pytest.mark.parametrize(("moment", "death"), DEATHS)
@pytest.mark.parametrize("there", [False, True])
def test_whenever_a_save_is_killed_the_newest_complete_checkpoint_loads(
    death: Callable[[Disk], None], moment: Moment, there: bool, tmp_path: Path
) -> None:
    calls = calls_of_a_save(tmp_path / "count", there)
    boundaries, writes = len(calls), [number for number, name in enumerate(calls) if name == "write"]
    assert boundaries > 20 and len(writes) > 5
    found = set()
    for number in writes if moment == "within" else range(boundaries + 1):
        folder = tmp_path / str(number)
        saved(folder, 1)
        if there:
            saved(folder, 2)

        def save(number: int = number, folder: Path = folder) -> None:
            with Disk(number, moment, death, root=folder).watched():
                saved(folder, 2)
                prune_checkpoints(folder, keep_last=1)

        # The last number is of no call: the save comes to its end.
        assert ended(forked(save)) == (0 if number == boundaries else -9)
        left = checkpoints(folder)
        for item in left:
            assert_whole(item)
        found.add(left[-1].step)
        assert_whole(saved(folder, 3))
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    expected = {1 + there} if moment == "within" else {1, 2}
    # A power cut undoes the first of two renames, too.
    assert found == expected or (there and death is not die and found == {2})


def test_what_is_synced_comes_before_the_name(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with Disk().watched() as disk:
        saved(tmp_path, 2)
    order = [name for name in disk.calls if name in ("fsync", "rename")]
    # Three files and their folder, then the name, then the folder that holds it.
    assert order == ["fsync"] * 4 + ["rename", "fsync"]


def test_a_checkpoint_that_is_being_removed_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    with Disk().watched() as disk:
        prune_checkpoints(tmp_path, keep_last=1)
    found = set()
    for number in range(len(disk.calls)):
        folder = tmp_path / str(number)
        for step in (1, 2):
            saved(folder, step)

        def prune(number: int = number, folder: Path = folder) -> None:
            with Disk(number, "before", die).watched():
                prune_checkpoints(folder, keep_last=1)

        assert ended(forked(prune)) == -9
        for item in checkpoints(folder):
            assert_whole(item)
        found.add(tuple(item.step for item in checkpoints(folder)))
    assert found == {(1, 2), (2,)}


def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no save get further than its first file before the event is set."""
    go, real = threading.Event(), saving.write_tensors

    def write(path: Path, parts: dict[str, Tensor]) -> str:
        assert go.wait(30)
        return real(path, parts)

    monkeypatch.setattr(saving, "write_tensors", write)
    return go


def test_a_save_in_the_background_holds_what_was_there_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, saver = waiting(monkeypatch), Saver(tmp_path, keep_last=2)
    weights, state = tensors(1), tensors(-1)
    saver.begin(weights, state, {"step": 1})
    assert saver.outcome() is None
    for tensor in (*weights.values(), *state.values()):
        tensor.zero_()
    go.set()
    outcome = saver.outcome(wait=True)
    assert isinstance(outcome, Checkpoint)
    assert_whole(outcome)
    assert saver.outcome(wait=True) is None


def test_a_saver_keeps_the_newest(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep_last=2)
    for step in range(1, 5):
        saver.begin(tensors(step), tensors(-step), {"step": step})
        assert isinstance(saver.outcome(wait=True), Checkpoint)
    assert [item.step for item in checkpoints(tmp_path)] == [3, 4]
    for item in checkpoints(tmp_path):
        assert_whole(item)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("none")])
def test_what_a_saver_cannot_write_is_told_and_the_next_save_is_a_new_try(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, real = Saver(tmp_path, keep_last=2), saving.write_tensors

    def fail(_path: Path, _tensors: dict[str, Any]) -> str:
        raise error

    monkeypatch.setattr(saving, "write_tensors", fail)
    saver.begin(tensors(1), tensors(-1), {"step": 1})
    outcome = saver.outcome(wait=True)
    assert isinstance(outcome, UnsavedError) and "can't be written" in str(outcome)
    assert not checkpoints(tmp_path)
    monkeypatch.setattr(saving, "write_tensors", real)
    saver.begin(tensors(2), tensors(-2), {"step": 2})
    assert isinstance(saver.outcome(wait=True), Checkpoint)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_whatever_call_of_a_save_fails_nothing_that_was_there_is_touched(error: int, tmp_path: Path) -> None:
    calls = calls_of_a_save(tmp_path / "count", there=False)
    failed = 0
    for number in range(calls.index("rename")):
        folder = tmp_path / str(number)
        saved(folder, 1)

        def fail(_disk: Disk) -> None:
            raise OSError(error, os.strerror(error))

        try:
            with Disk(number, "before", fail).watched():
                saved(folder, 2)
        except UnsavedError as told:
            assert "step_00000002: can't be written" in str(told) and os.strerror(error) in str(told)
            failed += 1
            assert [path.name for path in folder.iterdir()] == ["step_00000001"]
        assert_whole(checkpoints(folder)[0])
        assert_whole(saved(folder, 3))
    assert failed > 10


def test_a_file_system_that_cannot_sync_folders_takes_checkpoints_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert_whole(saved(tmp_path / "new", 1))
