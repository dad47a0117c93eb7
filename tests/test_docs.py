"""What pages show is what the commands print."""

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli.command_line import llamita

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", DOCS / "refresh.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_walkthrough_on_the_page_is_the_one_that_is_printed(refresh: ModuleType) -> None:
    command, shown = refresh.blocks((DOCS / "embeddings.md").read_text(encoding="utf-8"))[0]
    assert command.startswith('llamita walkthrough "I love dogs"')
    printed = llamita("walkthrough", "I love dogs").out.splitlines()
    lines = shown.splitlines()
    assert len(lines) > 40 and lines == printed[: len(lines)]


def test_every_command_on_the_page_works(refresh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("--training.steps", 2, "--precision", "fp32", "--training.eval-every", 2, "--training.batch-size", 2)
    assert llamita("demo", *short).code == 0
    commands = [command for command, _ in refresh.blocks((DOCS / "embeddings.md").read_text(encoding="utf-8"))]
    assert len(commands) >= 9
    for command in commands:
        name, *arguments = shlex.split(command.partition(" | ")[0])
        done = llamita(*arguments)
        assert name == "llamita" and done.code == 0 and done.out, (command, done.err)


def test_outputs_are_replaced_under_their_commands(
    refresh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n```console\n$ echo new | tr n N\nold\nold\n```\n```console\n$ true\n```\nafter\n")
    monkeypatch.setattr("sys.argv", ["refresh.py", str(page)])
    refresh.main()
    assert page.read_text() == "before\n```console\n$ echo new | tr n N\nNew\n```\n```console\n$ true\n\n```\nafter\n"
    with pytest.raises(SystemExit, match="failed with exit code 3"):
        refresh.run("exit 3")
