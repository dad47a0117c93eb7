"""A terminal's Ctrl-C reaches compilers, too: they are spared, and what they make is what they would have made."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamita.runs.folder import Run
from tests.cli.command_line import TINY
from tests.training.tiny_runs import checkpoint_bytes

OPTIONS = (*TINY, "--training.threads", "1", "--training.steps", "2", "--training.compile")
# Tells which files it compiles before it does.
COMPILER = """#!/bin/sh
echo "$@" >> {log}
exec {real} "$@"
"""


def started(arguments: tuple[object, ...], folder: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A process like a terminal's, with a cache of compiled code in a folder, and the log of what it compiles."""
    folder.mkdir(exist_ok=True)
    real = shutil.which("g++")
    assert real is not None
    compiler, log = folder / "g++", folder / "log"
    compiler.write_text(COMPILER.format(log=shlex.quote(str(log)), real=real), encoding="utf-8")
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "llamita", *map(str, arguments)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment, encoding="utf-8", start_new_session=True, **piped), log


def finished(process: "subprocess.Popen[str]", code: int) -> str:
    """What a process printed that ends with a code."""
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == code, printed
    return printed


@pytest.fixture(scope="module")
def whole(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The last checkpoint of a compiled run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finished(started(("train", tiny_text, "--run", folder / "run", *OPTIONS), folder / "compiled")[0], 0)
    return checkpoint_bytes(Run.open(folder / "run"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("twice", [False, True])
def test_a_signal_to_all_processes_of_a_terminal_while_compiling(
    twice: bool, whole: dict[str, bytes], tiny_text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process, log = started(("train", tiny_text, "--run", run, *OPTIONS), tmp_path / "compiled")
    while not (log.exists() and re.search(r"\.main\.cpp", log.read_text(encoding="utf-8"))):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    for _ in range(1 + twice):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    printed = finished(process, 130)
    assert "Traceback" not in printed
    assert ("stopped and saved" in printed) != twice
    assert f"go on with: llamita resume {run}\n" in printed
    finished(started(("resume", run), tmp_path / "compiled")[0], 0)
    assert checkpoint_bytes(Run.open(run)) == whole
