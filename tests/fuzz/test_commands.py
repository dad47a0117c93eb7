"""Whatever is typed, a command does it or says what is wrong with it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import strategies as st

from llamita import layers
from llamita.generation.engine import generate
from llamita.generation.sampling import Sampling
from llamita.runs.folder import Run
from tests.fuzz.command_lines import BOUNDED, command_lines, commands
from tests.fuzz.edits import NUMBERS, TEXTS
from tests.fuzz.plan import rounds
from tests.fuzz.run_commands import CHANGING, READING, WITHOUT_RUN
from tests.fuzz.trial import commanded, contents, tried, works
from tests.training.tiny_runs import small_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tiny_run: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, deep enough for paths that lead upwards."""
    place = tmp_path / "some" / "where"
    place.mkdir(parents=True)
    (place / "text.txt").write_text(tiny_text.read_text(encoding="utf-8")[:1500], encoding="utf-8")
    (place / "list.txt").write_text("the a\nriver man\nboat rope\n", encoding="utf-8")
    (place / "odd.toml").write_text(layers.to_toml(small_config()).replace("vocab_size = 64\n", ""), encoding="utf-8")
    shutil.copytree(tiny_run.path, place / "runs" / "it")
    monkeypatch.chdir(place)
    return place


def test_every_command_is_known_here() -> None:
    words = {command.words for command in commands()}
    assert BOUNDED.keys() <= words and len(words) > 15
    assert all(command.places or command.options for command in commands())


def test_every_command_reads_runs_or_may_change_them_or_takes_none() -> None:
    words = {command.words for command in commands()}
    reading = {one for one in words if any(line[: len(one)] == one for line in READING)}
    assert all(any(line[: len(one)] == one for one in words) for line in READING)
    assert sorted((*reading, *CHANGING, *WITHOUT_RUN)) == sorted(words)
    assert not any(command.takes_run for command in commands() if command.words in WITHOUT_RUN)


@rounds("command line")
def test_a_command_line_is_followed_or_refused(number: int, seed: int, tiny_run: Run, workplace: Path) -> None:
    run = workplace / "runs" / "it"
    commands()  # imports everything

    def attempt(words: tuple[str, ...]) -> bool:
        before = contents(run)
        outcome = commanded(*words, stdin=b"The river is wide. " * 20)
        if contents(run) != before:
            # A demo doesn't replace a run that isn't one.
            assert words[:1] in CHANGING and words[0] != "demo"
            shutil.rmtree(workplace / "runs")
            shutil.copytree(tiny_run.path, run)
        return outcome.code == 0

    assert tried(command_lines(), number, attempt, seed=seed) >= number


prompts = st.one_of(
    st.sampled_from([*TEXTS, "The river " * 10_000, "\U0010ffff" * 50, "e\u0301" * 200]),
    st.text(max_size=60),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Zs", "Lo"]), max_size=20),
)


@rounds("prompt")
def test_a_prompt_is_followed_or_refused(number: int, seed: int, tiny_run: Run) -> None:
    model, tokenizer, run = tiny_run.model(), tiny_run.tokenizer(), tiny_run.path

    def attempt(case: tuple[str, str, int, Sequence[str]]) -> bool:
        prompt, use, many, stop = case
        if use == "library":
            options = {"max_new_tokens": 3, "samples": many, "stop": stop, "seed": abs(many)}
            return works(lambda: generate(model, tokenizer, prompt, sampling=Sampling(), **options))  # type: ignore[arg-type]
        commands_of = {
            "generate": ("generate", run, "--max-new-tokens", 3, f"--prompt={prompt}"),
            "walkthrough": ("walkthrough", f"--text={prompt}", "--run", run),
            "neighbors": ("embeddings", "neighbors", run, f"--token={prompt}", "--top", 3),
            "context": ("embeddings", "neighbors", run, "the", f"--context={prompt}"),
            "encode": ("tokenizer", "encode", run, f"--text={prompt}", "--json"),
        }
        return commanded(*commands_of[use]).code == 0

    uses = st.sampled_from(["library", "generate", "walkthrough", "neighbors", "context", "encode"])
    several = st.sampled_from([1, 2, 3, *(number for number in NUMBERS if isinstance(number, int) and number > 2**31)])
    cases = st.tuples(prompts, uses, several, st.lists(st.sampled_from(["e", *TEXTS]), max_size=2))
    assert tried(cases, number, attempt, seed=seed) >= number


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300, "a/" * 3000], ids=["long", "a bit long", "deep"])
def test_a_name_too_long_for_any_file_is_refused(name: str, workplace: Path) -> None:
    lines: list[tuple[str, ...]] = [
        *(("train", name, "--run", "new"), ("train", "text.txt", "--run", "new", "--tokenizer", name)),
        *(("train", "text.txt", "--run", name), ("demo", "--run", name)),
        *(("plan", "--config", name), ("info", name), ("config", "show", "--run", name), ("generate", name)),
        *(("eval", name, "text.txt"), ("eval", "runs/it", name), ("walkthrough", "--html", name), ("resume", name)),
        *(("tokenizer", "train", "text.txt", "--out", name, "--kind", "byte"), ("tokenizer", "encode", name, "x")),
        *(
            ("probe", name),
            ("probe", "runs/it", "--analogies", name),
            ("embeddings", "export", "runs/it", name + ".vec"),
        ),
        *(("embeddings", "map", "runs/it", "--file", name + ".png"), ("embeddings", "neighbors", name, "the")),
    ]
    for words in lines:
        assert commanded(*words).code != 0
    assert commanded("runs", name).code == 0
    assert not (workplace / "new").exists()


@pytest.mark.parametrize("text", ["The king " * 400, *TEXTS])
def test_a_text_goes_through_the_small_model_or_is_refused(text: str) -> None:
    commanded("walkthrough", f"--text={text}")


@pytest.mark.parametrize(
    "words", [("runs",), ("runs", "--json"), ("info",), ("info", "--json"), ("config", "show", "--run")]
)
def test_a_name_that_is_no_utf8_is_printed_all_the_same(words: tuple[str, ...], tiny_run: Run, tmp_path: Path) -> None:
    shutil.copytree(os.fsencode(tiny_run.path), os.fsencode(tmp_path) + b"/\xff")
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llamita", *words, b"." if words[0] == "runs" else b"\xff"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\\udcff" in done.stdout
    if "--json" in words:
        found = json.loads(done.stdout)
        assert found.get("runs", [found])[0]["run"] == "\udcff"
