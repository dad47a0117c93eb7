"""Exit codes, and what goes where: results to stdout, everything else to stderr."""

import subprocess
import sys
from pathlib import Path

import pytest

from llamita import __version__
from llamita.runs.folder import Run
from tests.cli.command_line import TINY, llamita
from tests.fuzz.command_lines import commands

COMMANDS = [command.words for command in commands()]


def test_help_names_every_command() -> None:
    shown = llamita("--help")
    assert shown.code == 0
    assert len(COMMANDS) > 15
    assert all(f" {name} " in shown.out for name, *_ in COMMANDS)
    assert llamita().out == shown.out


@pytest.mark.parametrize("command", sorted({*COMMANDS, *((name,) for name, *_ in COMMANDS)}))
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    shown = llamita(*command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"Usage: llamita {' '.join(command)}")


def test_the_version_is_printed_alone() -> None:
    assert llamita("--version").out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nonsense",), "nonsense"),
        (("plan", "--nonsense"), "--nonsense"),
        (("plan", "--model.n-embed", "64"), "--model.n-embed"),
        (("plan", "--model.n-embd", "wide"), "--model.n-embd"),
        (("plan", "--model.n-embd"), "--model.n-embd"),
        (("plan", "--model.positions", "polar"), "--model.positions"),
        (("plan", "--model.n-embd", "0"), "model.n_embd (0)"),
        (("plan", "--model.head-dim", "7"), "model.head_dim (7)"),
        (("plan", "--model.rope-scaling.kind", "linear"), "model.rope_scaling.factor"),
        (("plan", "--optimizer.lr", "nan"), "optimizer.lr = nan"),
        (("plan", "--optimizer.betas", "0.9"), "--optimizer.betas"),
        (("plan", "--device", "gpu"), "--device"),
        (("plan", "--preset", "huge"), "--preset huge"),
        (("plan", "--config", "missing.toml"), "missing.toml"),
        (("plan", "--text-bytes", "0"), "--text-bytes 0"),
        (("info",), "RUN"),
        (("train",), "no text"),
        (("train", "--tokenizer.file", "a.json"), "--tokenizer.file"),
        (("train", "--model.vocab-size", "64"), "--model.vocab-size"),
        (("eval", "run"), "no text"),
        (("tokenizer", "train", "--out", "a.json"), "no text"),
        (("tokenizer", "train", "book.txt"), "--out"),
        (("tokenizer", "train", "book.txt", "--out", "a.json", "--kind", "rune"), "--kind"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(
    arguments: tuple[str, ...], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = llamita(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert named.lower() in refused.err.lower()
    assert "Traceback" not in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "missing.txt"), "missing.txt"),
        (("train", "empty"), "empty"),
        (("train", "empty.txt"), "empty.txt"),
        (("train", "binary.txt"), "binary.txt"),
        (("train", "lines.jsonl"), "lines.jsonl"),
        (("train", "book.txt", "--tokenizer", "missing.json"), "missing.json"),
        (("train", "book.txt", "--tokenizer", "book.txt"), "book.txt"),
        (("train", "book.txt", "--tokenizer.vocab-size", "10"), "10"),
        (("train", "book.txt", "--run", "book.txt"), "book.txt"),
        (("resume", "empty"), "empty"),
        (("info", "missing"), "missing"),
        (("generate", "missing", "It was"), "missing"),
        (("eval", "missing", "book.txt"), "missing"),
        (("config", "show", "missing"), "missing"),
        (("tokenizer", "encode", "missing.json", "text"), "missing.json"),
        (("tokenizer", "train", "empty.txt", "--out", "a.json"), "empty.txt"),
        (("tokenizer", "train", "book.txt", "--out", "book.txt/a.json"), "book.txt"),
    ],
)
def test_a_failure_is_named_and_exits_with_1(
    arguments: tuple[str, ...], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(bytes(range(256)))
    Path("lines.jsonl").write_text("{broken\n", encoding="utf-8")
    Path("book.txt").write_text("It was a dark and stormy night. It was late.\n", encoding="utf-8")
    before = set(tmp_path.rglob("*"))
    refused = llamita(*arguments)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("llamita: ")
    assert named in refused.err
    assert "Traceback" not in refused.err
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("The river", "--temperature", "-1"),
        ("The river", "--max-new-tokens", "-1"),
        ("The river", "--top-p", "0"),
        ("The river", "--checkpoint", "77"),
        ("The river", "--stop", ""),
        ("The river", "--samples", "0"),
        ("a\udcff",),
    ],
)
def test_a_generation_that_cannot_be_prints_nothing(arguments: tuple[str, ...], tiny_run: Run) -> None:
    refused = llamita("generate", tiny_run.path, *arguments, "--device", "cpu")
    assert (refused.code, refused.out) == (2 if "--checkpoint" in arguments else 1, "")
    assert refused.err.startswith("llamita: ")


def test_debug_shows_where_a_failure_comes_from() -> None:
    with pytest.raises(ValueError, match="missing"):
        llamita("info", "missing", "--debug")


def test_stdout_of_a_process_is_the_object_alone(tiny_text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "llamita", "train", str(tiny_text), "--run", str(run), *TINY]
    made = subprocess.run(
        [*command, "--training.steps", "2", "--json"], capture_output=True, encoding="utf-8", check=True
    )
    assert made.stdout.startswith('{"run": ')
    assert made.stdout.count("\n") == 1
    assert "step 2/2" in made.stderr
    failed = subprocess.run([*command, "--json"], capture_output=True, encoding="utf-8", check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert f"llamita resume {run}" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_reader_who_leaves_early_sees_no_complaint(tiny_run: Run) -> None:
    shown = subprocess.run(
        f"{sys.executable} -m llamita config show {tiny_run.path} | head -n 1",
        shell=True, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert shown.stdout.startswith("model.vocab_size")
    assert shown.stderr == ""
