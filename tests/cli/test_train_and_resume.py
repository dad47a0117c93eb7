"""`train` and `resume`: a run begins once, goes on where it stopped, and says what it does."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer
from llamita.training.session import Session
from tests.cli.command_line import TINY, llamita

SUMMARY = {
    *("run", "step", "steps", "parameters", "vocab_size", "n_embd", "tokens", "val_loss", "bits_per_byte"),
    *("best_step", "checkpoints"),
}


def figures(run: Run) -> list[dict[str, object]]:
    """The metrics without the time they took."""
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in run.metrics()]


def test_training_ends_with_one_object_about_the_run(tiny_text: Path, tmp_path: Path) -> None:
    made = llamita("train", tiny_text, "--run", tmp_path / "run", *TINY, "--training.steps", 3, "--json")
    assert made.json.keys() == SUMMARY
    assert (made.json["step"], made.json["steps"], made.json["n_embd"]) == (3, 3, 32)
    assert made.json == llamita("info", tmp_path / "run", "--json").json
    assert made.json["parameters"] == sum(weight.numel() for weight in Run.open(tmp_path / "run").model().parameters())


def test_people_see_what_will_happen_before_the_first_step(tiny_text: Path, tmp_path: Path) -> None:
    made = llamita("train", tiny_text, "--run", tmp_path / "run", *TINY, "--training.steps", 2)
    assert made.err == ""
    before, _, after = made.out.partition("step 0: validation loss")
    for fact in ("cpu", "fp32", "parameters (embeddings", "2 steps of 128 tokens", "MiB", "320 entries"):
        assert fact in before
    assert "step 2: validation loss" in after
    assert f"llamita generate {tmp_path / 'run'}" in after
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_is_named_after_the_text(tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_text, "my.book.txt")
    assert llamita("train", "my.book.txt", *TINY, "--training.steps", 1, "--json").json["run"] == "runs/my"
    assert [row["run"] for row in llamita("runs", "--json").json["runs"]] == ["runs/my"]


def test_standard_input_is_a_source(tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(tiny_text.read_bytes())))
    made = llamita("train", "-", *TINY, "--training.steps", 1, "--json").json
    assert made["run"] == "runs/text"
    whole = llamita("train", tiny_text, "--run", "whole", *TINY, "--training.steps", 1, "--json").json
    assert made["val_loss"] == whole["val_loss"]


def test_a_config_file_alone_can_say_everything(tiny_run: Run, tmp_path: Path) -> None:
    made = llamita("train", "--config", tiny_run.config_file, "--run", tmp_path / "again", "--json").json
    assert {**made, "run": ""} == {**llamita("info", tiny_run.path, "--json").json, "run": ""}
    again = Run.open(tmp_path / "again")
    assert again.config() == tiny_run.config()
    for one, two in zip(again.checkpoints(), tiny_run.checkpoints(), strict=True):
        assert one.meta == two.meta


def test_a_preset_gives_the_shape(tiny_text: Path, tmp_path: Path) -> None:
    small = ("--device", "cpu", "--training.steps", 1, "--training.batch-size", 1, "--training.sample-tokens", 0)
    llamita("train", tiny_text, "--run", tmp_path / "run", "--preset", "nano", *small)
    model = Run.open(tmp_path / "run").config().model
    assert (model.n_embd, model.n_layers, model.n_heads, model.max_seq_len) == (128, 4, 4, 128)


def test_a_tokenizer_file_is_used_as_it_is(tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "characters.json"
    llamita("tokenizer", "train", tiny_text, "--out", file, "--kind", "char")
    settings = ("--tokenizer", file, "--tokenizer.kind", "word", "--training.steps", 1)
    made = llamita("train", tiny_text, "--run", tmp_path / "run", *TINY, *settings, "--json").json
    tokenizer = Run.open(tmp_path / "run").tokenizer()
    assert tokenizer.fingerprint == Tokenizer.load(file).fingerprint
    assert made["vocab_size"] == tokenizer.get_vocab_size()


def test_a_run_that_exists_is_not_trained_over(tiny_run: Run, tiny_text: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    refused = llamita("train", tiny_text, "--run", tiny_run.path, *TINY)
    assert (refused.code, refused.out) == (2, "")
    assert f"llamita resume {tiny_run.path}" in refused.err
    assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == before


def test_resuming_a_finished_run_says_so_and_changes_nothing(tiny_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    told = llamita("resume", tiny_run.path)
    assert (told.code, told.err) == (0, "")
    assert "finished: 8 of 8 steps" in told.out
    assert "--training.steps 16" in told.out
    assert llamita("resume", tiny_run.path, "--json").json == llamita("info", tiny_run.path, "--json").json
    fewer = llamita("resume", tiny_run.path, "--training.steps", 3)
    assert fewer.code == 0
    assert "--training.steps 16" in fewer.out
    assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == before


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tiny_run: Run, tmp_path: Path) -> None:
    stopped = Run.open(shutil.copytree(tiny_run.path, tmp_path / "stopped"))
    shutil.rmtree(stopped.checkpoint_folder)
    session = Session(stopped)
    list(session.events(lambda: session.state.step == 6))
    torch.manual_seed(1234)
    resumed = llamita("resume", stopped.path)
    assert resumed.code == 0, resumed.err
    assert "going on from step 6" in resumed.out
    last, expected = stopped.checkpoints()[-1], tiny_run.checkpoints()[-1]
    for name in ("model.safetensors", "state.safetensors", "meta.json"):
        assert (last.path / name).read_bytes() == (expected.path / name).read_bytes()
    assert figures(stopped) == figures(tiny_run)


def test_a_run_without_a_checkpoint_starts_over(tiny_run: Run, copied_run: Run) -> None:
    shutil.rmtree(copied_run.checkpoint_folder)
    told = llamita("resume", copied_run.path)
    assert (told.code, told.err) == (0, "")
    assert "no checkpoint yet: starting over" in told.out
    assert copied_run.checkpoints()[-1].meta == tiny_run.checkpoints()[-1].meta
    assert figures(copied_run) == figures(tiny_run)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_more_steps_stretch_the_schedule_and_say_so(schedule: str, copied_run: Run) -> None:
    text = copied_run.config_file.read_text(encoding="utf-8")
    copied_run.config_file.write_text(text.replace('schedule = "cosine"', f'schedule = "{schedule}"'), encoding="utf-8")
    told = llamita("resume", copied_run.path, "--training.steps", 16)
    assert told.code == 0, told.err
    assert f"16 steps instead of 8: the {schedule} schedule is stretched from here" in told.out
    assert copied_run.config().training.steps == copied_run.checkpoints()[-1].step == 16
    rates = {row["step"]: row["lr"] for row in copied_run.metrics() if "lr" in row}
    assert rates[10] > rates[8]
    assert llamita("resume", copied_run.path).out.count("finished: 16 of 16") == 1


def test_a_run_may_go_on_at_another_learning_rate(copied_run: Run) -> None:
    more = ("--training.steps", 12, "--training.log-every", 1)
    assert llamita("resume", copied_run.path, *more, "--optimizer.lr", 1e-5, "--optimizer.clip", 0.5).code == 0
    assert (copied_run.config().optimizer.lr, copied_run.config().optimizer.clip) == (1e-5, 0.5)
    assert 0 < {row["step"]: row["lr"] for row in copied_run.metrics() if "lr" in row}[9] < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        ("--model.n-embd", 64),
        ("--data.packing", "documents"),
        ("--tokenizer.kind", "word"),
        ("--preset", "nano"),
        ("--seed", 5),
        ("--training.steps", -1),
        ("--training.micro-batch-size", 3),
        ("--device", "mps" if not torch.backends.mps.is_available() else "cuda"),
    ],
)
def test_what_a_run_began_with_cannot_be_changed(change: tuple[object, ...], copied_run: Run) -> None:
    before = copied_run.config_file.read_bytes()
    refused = llamita("resume", copied_run.path, "--training.steps", 12, *change)
    assert (refused.code, refused.out) == (2, "")
    assert "Traceback" not in refused.err
    assert copied_run.config_file.read_bytes() == before


def test_an_attention_kernel_may_be_measured_again_and_is_kept(copied_run: Run) -> None:
    assert llamita("resume", copied_run.path, "--training.attention", "auto", "--training.steps", 9).code == 0
    assert copied_run.config().training.attention == "torch"


@pytest.mark.parametrize(
    ("rows", "remedy"), [(4, "--training.micro-batch-size 2"), (1, "--training.recompute-layers 2")]
)
def test_a_lack_of_memory_is_no_riddle(
    rows: int, remedy: str, copied_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("llamita.training.stepping.train_step", none_left)
    more = ("--training.steps", 9, "--training.micro-batch-size", rows)
    refused = llamita("resume", copied_run.path, *more)
    assert refused.code == 1 and f"cpu has too little memory, at {rows} rows of 32 tokens" in refused.err
    assert f"llamita resume {copied_run.path} {remedy}" in refused.err
    if rows == 1:
        assert "a smaller model takes less" in llamita("resume", copied_run.path, *more, *remedy.split()).err
    monkeypatch.undo()
    assert llamita("resume", copied_run.path, *remedy.split()).code == 0


def test_how_often_to_look_may_change(copied_run: Run) -> None:
    often = ("--training.eval-every", 1, "--training.log-every", 1, "--training.save-every", 1)
    told = llamita("resume", copied_run.path, "--training.steps", 11, *often, "--training.keep-last", 3)
    assert told.code == 0, told.err
    assert [row["step"] for row in copied_run.metrics() if "val_loss" in row][-3:] == [9, 10, 11]
    assert [found.step for found in copied_run.checkpoints()][-3:] == [9, 10, 11]


def test_warnings_come_with_a_way_out(tiny_text: Path, tmp_path: Path) -> None:
    settings = ("--training.steps", 60, "--training.eval-every", 100, "--model.ffn-dim", 8)
    told = llamita("train", tiny_text, "--run", tmp_path / "run", *TINY, *settings)
    assert told.code == 0, told.err
    warnings = [line for line in told.out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "--training.steps" in warnings[0]
    assert "--tokenizer.vocab-size" in warnings[1]


def test_what_was_done_to_the_text_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "one.txt").write_bytes(b"The river is wide \xff and slow.\n" * 20)
    (folder / "two.txt").write_text(" \n", encoding="utf-8")
    (folder / "three.jpg").touch()
    told = llamita("train", folder, "--run", tmp_path / "run", *TINY, "--training.steps", 1)
    assert told.code == 0, told.err
    assert "20 bytes that weren't valid UTF-8 became U+FFFD" in told.out
    assert "1 empty documents were left out" in told.out
    assert "1 files of other kinds were left out" in told.out
    assert "the last part of the text is held out" in told.out


def test_metrics_are_one_json_object_a_line(tiny_run: Run) -> None:
    rows = [json.loads(line) for line in tiny_run.metrics_file.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8]
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 4, 8]
    trained = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "skipped"}
    measured = {"step", "val_loss", "bits_per_byte", "val_loss_by_frequency"}
    assert {frozenset(row) for row in rows} == {frozenset(trained), frozenset(measured)}
