"""A signal lets a run finish its step and save; resuming goes on from there."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llamita.runs.folder import Run
from tests.cli.command_line import TINY, llamita

Process = subprocess.Popen[str]


@pytest.fixture
def training(tiny_text: Path, tmp_path: Path) -> Iterator[Process]:
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_after_saving_it(
    number: signal.Signals, code: int, training: Process, tmp_path: Path
) -> None:
    training.send_signal(number)
    out, err = training.communicate(timeout=60)
    assert (training.returncode, out) == (code, "")
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
