"""`resume --checkpoint`: back to an older checkpoint, with nothing lost on the way."""

import errno
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llamita.errors import UserError
from llamita.runs import folder as folder_module
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.training.events import Abandoned
from llamita.training.session import Session
from tests.cli.command_line import llamita
from tests.cli.test_train_and_resume import figures
from tests.training.tiny_runs import checkpoint_bytes


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_without_it(tiny_run: Run, copied_run: Run) -> None:
    newest = copied_run.checkpoints()[-1].path
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused = llamita("resume", copied_run.path, "--training.steps", 12)
    assert refused.code == 1
    assert str(weights) in refused.err
    assert "--checkpoint 4" in refused.err
    told = llamita("resume", copied_run.path, "--checkpoint", 4)
    assert told.code == 0, told.err
    aside = copied_run.checkpoint_folder / "abandoned"
    assert f"moved to {aside}: step_00000008\n" in told.out
    assert "going on from step 4" in told.out
    assert (aside / "step_00000008" / "model.safetensors").stat().st_size == 100
    assert checkpoint_bytes(copied_run) == checkpoint_bytes(tiny_run)
    assert figures(copied_run) == figures(tiny_run)


@pytest.mark.parametrize("which", ["initial", "best"])
def test_a_run_goes_on_from_the_checkpoint_of_choice(which: str, tiny_run: Run, copied_run: Run) -> None:
    (copied_run.checkpoint_folder / "step_00000006").mkdir()
    settings = ("--training.steps", 16) if which == "best" else ()
    told = llamita("resume", copied_run.path, "--checkpoint", which, *settings)
    assert told.code == 0, told.err
    if which == "best":
        assert "going on from step 8" in told.out and "moved" not in told.out
        assert copied_run.checkpoints()[-1].step == 16
    else:
        assert f"{copied_run.path} is starting over" in told.out
        assert "step_00000004, step_00000006, step_00000008" in told.out
        assert checkpoint_bytes(copied_run) == checkpoint_bytes(tiny_run)
        assert figures(copied_run) == figures(tiny_run)


def test_a_checkpoint_that_is_not_there_changes_nothing(copied_run: Run) -> None:
    refused = llamita("resume", copied_run.path, "--checkpoint", 5)
    assert (refused.code, refused.out) == (2, "")
    assert "--checkpoint 5" in refused.err and "initial, 4, 8" in refused.err
    assert [found.step for found in copied_run.checkpoints()] == [4, 8]


def test_no_checkpoint_is_set_aside_for_a_damaged_one(copied_run: Run) -> None:
    state = copied_run.checkpoints()[0].path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    refused = llamita("resume", copied_run.path, "--checkpoint", 4)
    assert refused.code == 1
    assert str(state) in refused.err
    assert [found.step for found in copied_run.checkpoints()] == [4, 8]


def test_no_checkpoint_is_set_aside_for_a_run_that_cannot_begin(copied_run: Run) -> None:
    shard = copied_run.data_folder / "train" / "shard_00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    refused = llamita("resume", copied_run.path, "--checkpoint", 4)
    assert refused.code == 1 and "prepare the text again" in refused.err
    assert [found.step for found in copied_run.checkpoints()] == [4, 8]
    shard.write_bytes(b"\xff" * len(content))
    refused = llamita("resume", copied_run.path, "--checkpoint", 4)
    assert refused.code == 1 and "holds token id 65535" in refused.err
    assert [found.step for found in copied_run.checkpoints()] == [4, 8]


def test_no_checkpoint_is_set_aside_if_the_config_cannot_be_written(
    copied_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_module, "write_text", full)
    refused = llamita("resume", copied_run.path, "--checkpoint", 4, "--training.steps", 9)
    assert refused.code == 1 and "config.toml: can't be written (No space left on device)" in refused.err
    assert [found.step for found in copied_run.checkpoints()] == [4, 8]


@pytest.mark.parametrize("damage", ["cut off", "a bit turned", "gone"])
def test_a_damaged_meta_is_told_and_the_checkpoint_before_is_offered(damage: str, copied_run: Run) -> None:
    meta = copied_run.checkpoints()[-1].path / "meta.json"
    text = meta.read_text(encoding="utf-8")
    match damage:
        case "cut off":
            meta.write_text(text[:50], encoding="utf-8")
        case "a bit turned":
            meta.write_text(re.sub(r'"row": (\d)', lambda found: f'"row": {int(found[1]) ^ 1}', text), encoding="utf-8")
            assert meta.read_text(encoding="utf-8") != text
        case "gone":
            meta.unlink()
    refused = llamita("resume", copied_run.path, "--training.steps", 12)
    assert refused.code == 1
    assert f"{meta.parent}: meta.json is missing or damaged; use --checkpoint 4" in refused.err
    assert llamita("resume", copied_run.path, "--checkpoint", 4).code == 0
    shutil.rmtree(copied_run.checkpoint_folder / "step_00000004")
    (copied_run.checkpoint_folder / "step_00000008" / "meta.json").unlink()
    assert "use --checkpoint initial" in llamita("resume", copied_run.path).err


def test_the_best_so_far_is_the_best_of_what_is_left(copied_run: Run) -> None:
    config = copied_run.config()
    training = replace(config.training, steps=12, save_every=100, eval_every=2, keep_last=9)
    list(Session(copied_run, replace(config, training=training)).events())
    session = Session(copied_run, begin="4")
    told = list(session.events(lambda: session.state.step == 8))
    assert isinstance(told[0], Abandoned) and {path.name for path in told[0].paths} > {"step_00000012"}
    # What is better than step 4 is saved again, though it is worse than what was abandoned.
    assert [found.step for found in copied_run.checkpoints()] == [4, 6, 8]
    list(session.events())
    assert [found.step for found in copied_run.checkpoints()] == [4, 6, 8, 10, 12]


def test_a_run_that_another_process_went_on_with_meanwhile_is_left_alone(copied_run: Run) -> None:
    session = Session(copied_run, begin="4")
    assert llamita("resume", copied_run.path, "--training.steps", 10).code == 0
    with pytest.raises(UserError, match="has gone on to step 10 meanwhile"):
        list(session.events())
    assert [found.step for found in copied_run.checkpoints()] == [8, 10]


def test_a_finished_run_says_how_to_get_more_of_the_same(copied_run: Run) -> None:
    told = llamita("resume", copied_run.path, "--checkpoint", "latest", "--training.steps", 8)
    assert told.code == 0
    (command,) = re.findall("For more: llamita (.*)", told.out)
    assert shlex.split(command) == [
        *("resume", str(copied_run.path), "--checkpoint", "latest", "--training.steps", "16")
    ]


def test_no_checkpoint_is_set_aside_under_another_writer(copied_run: Run) -> None:
    with writing(copied_run.path):
        refused = llamita("resume", copied_run.path, "--checkpoint", 4)
    assert refused.code == 1 and "is being written by" in refused.err
    assert [found.step for found in copied_run.checkpoints()] == [4, 8]


@pytest.mark.parametrize("name", ["step_00000008.bak", "step_copy", "step_00000002"])
def test_a_copy_that_somebody_keeps_there_is_in_nobodys_way(name: str, tiny_run: Run, copied_run: Run) -> None:
    kept = shutil.copytree(copied_run.checkpoint_folder / "step_00000008", copied_run.checkpoint_folder / name)
    assert copied_run.beginning() == copied_run.checkpoints()[-1]
    assert llamita("resume", copied_run.path, "--training.steps", 9).code == 0
    assert (kept / "model.safetensors").exists()
