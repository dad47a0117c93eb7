"""What pages show is what the commands print."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from llamita import layers
from llamita.runs.folder import Run
from llamita.training.session import Session
from llamita.training.stories import prepare_stories
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
    # What the demo trains, without what it looks at then.
    short = {"training.steps": 2, "training.precision": "fp32", "training.batch_size": 2, "training.eval_tokens": 1000}
    for _ in Session(prepare_stories(Path("runs/demo"), [layers.from_dotted("", short)]).run).events():
        pass
    shown = [command for command, _ in refresh.blocks((DOCS / "embeddings.md").read_text(encoding="utf-8"))]
    commands = {command.partition(" | ")[0] for command in shown}
    assert len(shown) >= 9 and len(commands) >= 7
    for command in sorted(commands):
        name, *arguments = shlex.split(command)
        done = llamita(*arguments)
        assert name == "llamita" and done.code == 0 and done.out, (command, done.err)


def fenced(page: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def test_what_can_be_run_of_the_way_elsewhere_works(
    tiny_run: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run.path, "runs/book")
    shutil.copy(tiny_text, "other.txt")
    page = (DOCS / "elsewhere.md").read_text(encoding="utf-8")
    commands = [line for block in fenced(page, "") for line in block.splitlines() if line.startswith("llamita ")]
    assert len(commands) == 8
    for command in commands:
        done = llamita(*shlex.split(command)[1:])
        assert done.code == 0, (command, done.err)
    for block in fenced(page, "python"):
        package = "llama_cpp" if "llama_cpp" in block else "transformers"
        if importlib.util.find_spec(package) is None:
            continue
        exec(compile(block, package, "exec"), {})
        assert capsys.readouterr().out.strip(), package
    assert Run.open("runs/tuned").start is not None
    modelfile = next(block for block in fenced(page, "") if block.startswith("FROM "))
    assert Path(modelfile.split()[1]).read_bytes()[:4] == b"GGUF"


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
