"""`eval`: how well a run's model predicts, and what it answers."""

import io
import math
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from llamita.cli.evaluate import _task_names
from llamita.runs.folder import Run
from llamita.tasks.scoring import TASKS, score
from tests.cli.command_line import TINY, llamita


def test_eval_measures_the_text_that_it_is_given(tiny_run: Run, tiny_text: Path) -> None:
    result = llamita("eval", tiny_run.path, tiny_text, "--device", "cpu", "--precision", "fp32", "--json").json
    assert result.keys() == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes", "left_out", "bands", "contexts"}
    assert result["bytes"] == tiny_text.stat().st_size
    assert result["tokens"] == len(tiny_run.tokenizer().encode(tiny_text.read_text(encoding="utf-8")))
    expected = result["loss"] * result["tokens"] / math.log(2) / result["bytes"]
    assert result["bits_per_byte"] == pytest.approx(expected)
    shown = llamita("eval", tiny_run.path, tiny_text, "--device", "cpu", "--precision", "fp32").out
    assert f"loss {result['loss']:.4f} nats a token" in shown
    assert f"{result['bits_per_byte']:.4f} bits per byte" in shown


def test_eval_tells_the_loss_by_how_often_training_met_a_token(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("Another text.", encoding="utf-8")
    command = ("eval", tiny_run.path, tiny_text, "--device", "cpu", "--precision", "fp32")
    result = llamita(*command, "--json").json
    bands = result["bands"]
    assert [band["least"] for band in bands] == [0, 1, 10]
    assert sum(band["tokens"] for band in bands) == result["tokens"]
    total = sum(band["tokens"] * band["loss"] for band in bands)
    assert total == pytest.approx(result["loss"] * result["tokens"], rel=1e-5)
    lines = llamita(*command).out.splitlines()
    assert lines[1] == "by how many tokens of its text the model had before it:"
    named = [line.split(":")[0].strip() for line in lines[2:8]]
    assert named == ["1", "2 to 3", "4 to 7", "8 to 15", "16 to 31", "32 to 63"]
    assert lines[8] == "by how often the training text has the token that was to be predicted:"
    assert [line.split(":")[0].strip() for line in lines[9:]] == ["never", "1 to 9 times", "10 to 99 times"]
    told = zip([*result["contexts"], *bands], [*lines[2:8], *lines[9:]], strict=True)
    assert all(f"{band['loss']:.4f} nats" in line for band, line in told)
    two = llamita("eval", tiny_run.path, tiny_text, tiny_text.parent / "*.txt", tmp_path / "more.txt").out
    assert "left out: 1 tokens that the model has no logit of" in two
    (tmp_path / "rare.txt").write_text("ЖЖ", encoding="utf-8")
    rare = llamita("eval", tiny_run.path, tmp_path / "rare.txt", "--json").json["bands"]
    assert rare[0]["least"] == 0
    moved = shutil.copytree(tiny_run.path, tmp_path / "run")
    shutil.rmtree(moved / "data")
    assert llamita("eval", moved, tiny_text, "--json").json["bands"] == []
    assert "index.json is missing" in llamita("eval", moved, tiny_text).out


def test_eval_of_the_held_out_text_is_the_runs_own_figure(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    text, tokenizer = tiny_text.read_text(encoding="utf-8"), tiny_run.tokenizer()
    best = tiny_run.checkpoint("best")
    shards = tiny_run.data_folder / "validation"
    assert [path.name for path in sorted(shards.iterdir())][0] == "shard_00000.bin"
    held_out = tokenizer.decode(memoryview((shards / "shard_00000.bin").read_bytes()).cast("H").tolist())
    assert text.endswith(held_out)
    (tmp_path / "tail.txt").write_text(held_out, encoding="utf-8")
    command = ("eval", tiny_run.path, tmp_path / "tail.txt", "--device", "cpu", "--precision", "fp32", "--json")
    result = llamita(*command, "--checkpoint", best.step).json
    assert result["loss"] == pytest.approx(best.val_loss, rel=1e-6)
    assert result["bits_per_byte"] == pytest.approx(best.bits_per_byte, rel=1e-6)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_bits_per_byte_is_null_where_the_tokenizer_loses_text(kind: str, tiny_text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("--tokenizer.kind", kind, "--training.steps", 1, "--json")
    assert llamita("train", tiny_text, "--run", run, *TINY, *settings).json["bits_per_byte"] is None
    result = llamita("eval", run, tiny_text, "--device", "cpu", "--json").json
    assert result["bits_per_byte"] is None
    assert result["loss"] > 0
    assert llamita("info", run, "--json").json["bits_per_byte"] is None
    assert "no bits per byte" in llamita("eval", run, tiny_text, "--device", "cpu").out


def test_eval_reads_every_kind_of_source(
    tiny_run: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = llamita("eval", tiny_run.path, tiny_text, "--json").json
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(tiny_text.read_bytes())))
    assert llamita("eval", tiny_run.path, "-", "--json").json == whole
    assert llamita("eval", tiny_run.path, tiny_text.parent / "*.txt", "--json").json == whole
    (tmp_path / "rows.jsonl").write_text('{"body": "The river is wide."}\n{"body": "So."}\n', encoding="utf-8")
    rows = llamita("eval", tiny_run.path, tmp_path / "rows.jsonl", "--field", "body", "--json").json
    assert rows["bytes"] == len("The river is wide.So.")


def test_tasks_are_scored_with_or_without_a_text(tiny_run: Run, tiny_text: Path) -> None:
    command = ("eval", tiny_run.path, "--device", "cpu")
    alone = llamita(*command, "--tasks", "analogies,analogies_english", "--json").json
    assert alone.keys() == {"tasks"}
    assert list(alone["tasks"]) == ["analogies", "analogies_english"]
    expected = score(tiny_run.model(), tiny_run.tokenizer(), TASKS["analogies"]())
    assert alone["tasks"]["analogies"] == asdict(expected)
    text = llamita(*command, tiny_text, "--json").json
    both = llamita(*command, tiny_text, "--tasks", "analogies", "--tasks", "analogies_english", "--json").json
    assert both == {**text, **alone}
    shown = llamita(*command, tiny_text, "--tasks", "analogies").out.splitlines()
    assert "nats a token" in shown[0]
    (row,) = (line for line in shown if line.startswith("analogies"))
    figures = (expected.acc, expected.acc_stderr, expected.acc_norm, expected.acc_norm_stderr, 0.25)
    assert [float(cell) for cell in row.split()[1:-1] if cell != "±"] == [round(figure, 4) for figure in figures]


def test_all_stands_for_every_task_of_ours() -> None:
    assert _task_names(["cloze, all", "mine.yaml,cloze"]) == [*dict.fromkeys(["cloze", *TASKS]), "mine.yaml"]


def test_what_cannot_be_measured_is_told_with_its_remedy(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = llamita("eval", tiny_run.path)
    assert nothing.code == 2
    assert "no text and no task to measure" in nothing.err
    assert "--tasks all" in nothing.err
    no_name = llamita("eval", tiny_run.path, "--tasks", ",")
    assert no_name.code == 2
    assert "storyworld_agreement" in no_name.err
    monkeypatch.setattr("llamita.cli.evaluate.find_spec", lambda _: None)
    foreign = llamita("eval", tiny_run.path, "--tasks", "cloze,tasks/mine.yaml")
    assert (foreign.code, foreign.out) == (1, "")
    assert "tasks/mine.yaml" in foreign.err
    assert "pip install 'llamita[eval]'" in foreign.err


def test_measuring_writes_nothing_into_the_run(tiny_run: Run, tiny_text: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    assert llamita("eval", tiny_run.path, tiny_text, "--tasks", "analogies").code == 0
    assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == before
