"""Signals in every phase of a command: what it prints, its exit code, and that what it says to type goes on."""

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from rich.console import Console

from llamita.cli.stopping import Stopping, same_command
from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer
from tests.cli.command_line import TINY, llamita
from tests.cli.interrupted import GRACE, held
from tests.training.tiny_runs import checkpoint_bytes

SHORT = (
    *(*TINY, "--training.threads", "1", "--training.steps", "6", "--training.log-every", "1"),
    *("--training.eval-every", "2", "--training.save-every", "2"),
)
PREPARING = {
    "reading": "llamita.text.sources:records",
    "training the tokenizer": "llamita.training.prepare:make_tokenizer",
    "encoding": "llamita.text.tokenizer:Tokenizer.encode_batch",
    "building": "llamita.training.session:build_optimizer",
}
TRAINING = {
    "evaluating": "llamita.training.session:evaluate",
    "training": "llamita.training.stepping:train_step",
    "sampling": "llamita.training.session:generate",
    "saving": "llamita.runs.saving:save_checkpoint",
}
# The second of two quick signals may come when the first has ended all but Python itself.
AT_THE_LAST_MOMENT = (-signal.SIGTERM,)
DRAWING = "llamita.cli.train:plot_losses"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="waits for a mutex as Linux has it")


@pytest.fixture(scope="module")
def whole(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The last checkpoint of a run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert llamita("train", tiny_text, "--run", run, *SHORT).code == 0
    return checkpoint_bytes(Run.open(run))


def go_on(printed: str) -> str:
    """Type exactly what was told; gives what it prints."""
    (told,) = re.findall("go on with: (.*)", printed)
    program, *arguments = shlex.split(told)
    assert program == "llamita"
    done = llamita(*arguments)
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize(("number", "phase"), [*zip(SIGNALS, PREPARING, strict=False), (signal.SIGINT, "building")])
def test_a_signal_before_training_ends_a_run_that_goes_on_as_if_nothing_had_been(
    number: int, phase: str, whole: dict[str, bytes], tiny_text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    process = held(("train", tiny_text, "--run", run, *SHORT), PREPARING[phase], tmp_path / "held")
    process.send(number)
    assert process.ended() == 128 + number
    assert "Traceback" not in process.printed and "finishing" not in process.printed
    assert ("llamita resume" in process.printed) == (phase == "building")
    go_on(process.printed)
    assert checkpoint_bytes(Run.open(run)) == whole


@linux
@pytest.mark.parametrize(("number", "phase"), [(signal.SIGINT, "training the tokenizer"), (signal.SIGTERM, "encoding")])
def test_a_signal_in_native_code_before_training_ends_the_process_after_a_moment(
    number: int, phase: str, whole: dict[str, bytes], tiny_text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = held(("train", tiny_text, "--run", run, *SHORT), PREPARING[phase], tmp_path / "held", native=True)
    begun = time.monotonic()
    process.send(number)
    assert process.ended() == 128 + number
    assert time.monotonic() - begun < GRACE + 5
    assert "going on where preparing stood" in go_on(process.printed)
    assert checkpoint_bytes(Run.open(run)) == whole


@linux
@pytest.mark.parametrize(
    ("number", "phase", "at_call"),
    [
        (signal.SIGINT, "evaluating", 1),
        (signal.SIGTERM, "evaluating", 2),
        (signal.SIGUSR1, "training", 1),
        (signal.SIGINT, "training", 3),
        (signal.SIGTERM, "sampling", 1),
        (signal.SIGUSR1, "saving", 1),
    ],
)
def test_a_signal_while_training_lets_it_finish_its_step_and_save(
    number: int, phase: str, at_call: int, whole: dict[str, bytes], tiny_text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("train", tiny_text, "--run", run, *SHORT)
    process = held(command, TRAINING[phase], tmp_path / "held", native=True, at_call=at_call)
    process.send(number)
    # It's told at once, although the main thread hears nothing yet.
    assert process.says("finishing this step, then saving; once more to stop at once\n")
    assert process.code() == 128 + number
    assert process.printed.endswith(f"stopped and saved; go on with: llamita resume {run}\n")
    assert "Traceback" not in process.printed
    (saved,) = re.findall(r"^saved .*step_0*(\d+)$", process.printed, re.MULTILINE)
    assert Run.open(run).checkpoints()[-1].step == int(saved) < 6
    go_on(process.printed)
    assert checkpoint_bytes(Run.open(run)) == whole


@linux
@pytest.mark.parametrize(
    ("phase", "native"),
    [
        *(("training the tokenizer", True), ("encoding", True), ("building", False), ("evaluating", True)),
        *(("training", True), ("training", False), ("sampling", False), ("saving", False)),
    ],
)
def test_two_signals_end_it_at_once_and_nothing_is_lost_but_the_step(
    phase: str, native: bool, whole: dict[str, bytes], tiny_text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    place = {**PREPARING, **TRAINING}[phase]
    process = held(("train", tiny_text, "--run", run, *SHORT), place, tmp_path / "held", native=native)
    begun = time.monotonic()
    process.send(signal.SIGTERM, signal.SIGTERM)
    assert process.ended() in (143, *AT_THE_LAST_MOMENT)
    assert time.monotonic() - begun < GRACE + 5
    assert "Traceback" not in process.printed
    go_on(process.printed)
    assert checkpoint_bytes(Run.open(run)) == whole


@linux
def test_two_signals_end_it_even_if_nobody_reads_what_it_prints(tiny_text: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    command = ("train", tiny_text, "--run", tmp_path / "run", *SHORT)
    process = held(command, TRAINING["training"], tmp_path / "held", at_call=2, out=str(tmp_path / "pipe"))
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"." * 100)
    (tmp_path / "held" / "go").touch()
    time.sleep(0.3)
    process.send(signal.SIGTERM, signal.SIGTERM)
    assert process.ended() in (143, *AT_THE_LAST_MOMENT)
    os.close(pipe)
    assert llamita("resume", tmp_path / "run").code == 0


def test_a_signal_while_losses_are_drawn_leaves_a_finished_run(tiny_text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = held(("train", tiny_text, "--run", run, *SHORT), DRAWING, tmp_path / "held")
    process.send(signal.SIGINT)
    assert process.ended() == 130
    assert process.printed.endswith(f"stopped; go on with: llamita resume {run}\n")
    assert "finished: 6 of 6 steps" in llamita("resume", run).out


def test_resuming_with_other_settings_is_typed_again_with_them(copied_run: Run, tmp_path: Path) -> None:
    command = ("resume", copied_run.path, "--training.steps", 10)
    process = held(command, PREPARING["building"], tmp_path / "held")
    process.send(signal.SIGTERM)
    assert process.ended() == 143
    go_on(process.printed)
    assert copied_run.checkpoints()[-1].step == 10


def test_a_tokenizer_that_was_stopped_leaves_nothing_and_is_trained_anew(tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "made" / "tokenizer.json"
    place = "llamita.text.tokenizer:Tokenizer.train"
    process = held(("tokenizer", "train", tiny_text, "--out", file), place, tmp_path / "held")
    process.send(signal.SIGINT)
    assert process.ended() == 130
    assert not file.exists() and "Traceback" not in process.printed
    go_on(process.printed)
    assert file.exists()


@pytest.mark.parametrize(("at_call", "shown"), [(1, "stopped; go on with"), (3, "stopped and saved; go on with")])
def test_the_cursor_of_a_terminal_is_shown_again(at_call: int, shown: str, tiny_text: Path, tmp_path: Path) -> None:
    mine, theirs = os.openpty()
    place = PREPARING["encoding"] if at_call == 1 else TRAINING["training"]
    command = ("train", tiny_text, "--run", tmp_path / "run", *SHORT)
    process = held(command, place, tmp_path / "held", at_call=at_call, out=os.ttyname(theirs))
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(iter(lambda: os.read(mine, 1000), b"end")), daemon=True)
    reader.start()
    process.send(signal.SIGINT)
    assert process.code() == 130
    os.write(theirs, b"\n")
    time.sleep(0.1)
    printed = b"".join(seen).decode()
    assert shown in printed
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")


def heard_in_process(number: int, stopping: Stopping) -> int | None:
    """The exit code that a signal gives code that makes other errors of what interrupts it."""
    try:
        with stopping:
            try:
                signal.raise_signal(number)
            except SystemExit:
                raise ValueError("something was interrupted") from None
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else None
    return None


@pytest.mark.parametrize("number", SIGNALS)
def test_whatever_is_made_of_an_interruption_the_program_ends(number: int) -> None:
    said = io.StringIO()
    assert heard_in_process(number, Stopping(Console(file=said), "llamita train 'my book.txt'")) == 128 + number
    assert said.getvalue() == "stopped; go on with: llamita train 'my book.txt'\n"


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    stopping = Stopping(Console(file=io.StringIO()), "")
    with stopping:
        assert [signal.getsignal(number) for number in SIGNALS] != before
        with stopping.finishing():
            signal.raise_signal(signal.SIGTERM)
        assert stopping and stopping.exit_code == 143
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)
    assert "llamita-signals" not in [thread.name for thread in threading.enumerate()]


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with Stopping(Console(file=io.StringIO()), "") as stopping, stopping.finishing():
            seen.append([signal.getsignal(number) for number in SIGNALS])

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture
def training(tiny_text: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that would train for hours, in the middle of it."""
    rarely = ("--training.save-every", "1000000", "--training.eval-every", "1000000", "--training.log-every", "1")
    options = ("--run", str(tmp_path / "run"), *TINY, *rarely, "--training.steps", "1000000")
    command = [sys.executable, "-m", "llamita", "train", str(tiny_text), *options, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    run, deadline = Run(tmp_path / "run"), time.monotonic() + 60
    while not any("loss" in row for row in run.metrics()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def test_a_whole_process_stops_after_saving(training: subprocess.Popen[str], tmp_path: Path) -> None:
    training.send_signal(signal.SIGINT)
    out, err = training.communicate(timeout=60)
    assert (training.returncode, out) == (130, "")
    assert f"llamita resume {tmp_path / 'run'}" in err
    assert "Traceback" not in err
    run = Run.open(tmp_path / "run")
    (saved,) = run.checkpoints()
    assert saved.step == [row["step"] for row in run.metrics() if "loss" in row][-1]
    told = llamita("resume", run.path, "--training.steps", saved.step + 2, "--json").json
    assert (told["step"], told["steps"]) == (saved.step + 2, saved.step + 2)


def test_a_run_whose_time_is_up_is_saved_and_goes_on_later(tiny_text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = llamita("train", tiny_text, "--run", run, *TINY, "--training.steps", 4, "--training.max-minutes", 1e-9)
    assert stopped.code == 75 and f"llamita resume {run}" in stopped.out
    assert [saved.step for saved in Run.open(run).checkpoints()] == [1]
    assert llamita("resume", run).code == 75
    assert llamita("resume", run, "--training.max-minutes", "off").code == 0
    whole = tmp_path / "whole"
    assert llamita("train", tiny_text, "--run", whole, *TINY, "--training.steps", 4).code == 0
    tables = [Run.open(path).model("latest").embeddings.weight for path in (run, whole)]
    assert torch.equal(tables[0], tables[1])


def test_generating_ends_without_a_word(tiny_run: Run, tmp_path: Path) -> None:
    process = held(("generate", tiny_run.path, "The"), "llamita.cli.use:stream", tmp_path / "held")
    process.send(signal.SIGINT)
    assert process.ended() == 130
    assert process.printed == ""


def test_evaluating_leaves_nothing_behind(
    tiny_run: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Path] = []

    def interrupted(*_: object) -> None:
        left.extend((tmp_path / "temporary").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(Tokenizer, "encode_batch", interrupted)
    told = llamita("eval", tiny_run.path, tiny_text)
    assert told.code == 143 and len(left) == 1 and not left[0].exists()


def test_what_was_piped_in_must_be_piped_in_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, plain = tmp_path / "pipe", tmp_path / "plain"
    os.mkfifo(pipe)
    plain.touch()
    for source, told in (("-", True), (pipe, True), (plain, False), ("no\0thing", False)):
        monkeypatch.setattr(sys, "argv", ["llamita", "train", str(source)])
        assert same_command().endswith("  # with the same text piped in") == told
