"""`generate` and `eval`: what a run's model says, and how well it predicts."""

import io
import math
import shutil
import sys
from pathlib import Path

import pytest

from llamita.runs.folder import Run
from tests.cli.command_line import TINY, llamita


def test_greedy_text_is_what_its_tokens_decode_to(tiny_run: Run) -> None:
    prompt = "The river"
    command = ("generate", tiny_run.path, prompt, "--greedy", "--max-new-tokens", 12, "--json")
    made = llamita(*command).json
    assert made.keys() == {"prompt", "text", "token_ids", "finish_reason", "samples"}
    assert (made["prompt"], len(made["token_ids"]), made["finish_reason"]) == (prompt, 12, "length")
    tokenizer = tiny_run.tokenizer()
    assert tokenizer.decode(tokenizer.encode(prompt) + made["token_ids"]) == prompt + made["text"]
    assert llamita(*command).json == made
    assert llamita(*command, "--temperature", 5, "--seed", 3).json == made
    assert llamita(*command[:-2], 12).out == prompt + made["text"] + "\n"


def test_the_greedy_token_is_the_likeliest(tiny_run: Run) -> None:
    made = llamita("generate", tiny_run.path, "The", "--greedy", "--max-new-tokens", 1, "--json", "--device", "cpu")
    evaluated = llamita("generate", tiny_run.path, "The", "--top-k", 1, "--max-new-tokens", 1, "--json")
    assert made.json["token_ids"] == evaluated.json["token_ids"]


def test_generation_on_a_cpu_is_in_fp32_unless_asked(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--device", "cpu", "--max-new-tokens", 20, "--json")
    assert llamita(*command).json == llamita(*command, "--precision", "fp32").json
    assert llamita(*command, "--precision", "bf16").code == 0


def test_the_seed_decides_what_is_drawn(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--max-new-tokens", 20, "--json", "--device", "cpu")
    assert llamita(*command, "--seed", 1).json == llamita(*command, "--seed", 1).json
    assert llamita(*command, "--seed", 1).json["text"] != llamita(*command, "--seed", 2).json["text"]


def test_several_samples_begin_with_the_one(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--max-new-tokens", 8, "--json")
    one, three = llamita(*command).json, llamita(*command, "--samples", 3).json
    assert [sample["token_ids"] for sample in three["samples"]][0] == one["token_ids"] == three["token_ids"]
    assert len(three["samples"]) == 3
    shown = llamita(*command[:-1], "--samples", 3).out
    assert all(f"--- {number}\nThe" in shown for number in (1, 2, 3))


def test_a_text_ends_before_a_stop_string(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--greedy", "--max-new-tokens", 20, "--json")
    whole = llamita(*command).json["text"]
    stop = whole[5]
    made = llamita(*command, "--stop", stop).json
    assert (made["text"], made["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_the_best_weights_speak_unless_others_are_asked_for(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--greedy", "--max-new-tokens", 16, "--json", "--checkpoint")
    best = tiny_run.checkpoint("best").step
    assert llamita(*command[:-1]).json == llamita(*command, "best").json == llamita(*command, best).json
    assert llamita(*command, "latest").json == llamita(*command, 8).json


def test_an_empty_prompt_begins_a_new_text(tiny_run: Run) -> None:
    made = llamita("generate", tiny_run.path, "--max-new-tokens", 5)
    assert made.code == 0
    assert made.out.endswith("\n")


def test_eval_measures_the_text_that_it_is_given(tiny_run: Run, tiny_text: Path) -> None:
    result = llamita("eval", tiny_run.path, tiny_text, "--device", "cpu", "--precision", "fp32", "--json").json
    assert result.keys() == {"loss", "bits_per_byte", "tokens", "bytes", "left_out", "bands"}
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
    assert lines[1] == "by how often the training text has the token that was to be predicted:"
    assert [line.split(":")[0].strip() for line in lines[2:]] == ["never", "1 to 9 times", "10 to 99 times"]
    assert all(f"{band['loss']:.4f} nats" in line for band, line in zip(bands, lines[2:], strict=True))
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


def test_measuring_writes_nothing_into_the_run(tiny_run: Run, tiny_text: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    assert llamita("eval", tiny_run.path, tiny_text).code == 0
    assert llamita("generate", tiny_run.path, "The", "--max-new-tokens", 2).code == 0
    assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == before
