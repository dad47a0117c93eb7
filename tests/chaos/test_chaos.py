"""The report on injected faults: a small part of it, and what it says when a run is lost."""

import random
import shutil
from pathlib import Path

import pytest

from llamita.runs.folder import Run
from tests.chaos import __main__ as chaos
from tests.chaos import runs, trials
from tests.chaos.trials import TRIALS, Harm


@pytest.mark.slow
def test_one_fault_of_every_kind_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chaos, "VARIANTS", {"char": runs.VARIANTS["char"]})
    monkeypatch.setattr(chaos, "PAGE", tmp_path / "untouched.md")
    assert chaos.main(["--scale", "0.001"]) == 0
    told = capsys.readouterr().out.splitlines()
    injected, survived = (int(word) for word in told[-1].replace(",", "").split() if word.isdigit())
    assert told[-1] == f"chaos: {injected} injected, {survived} survived"
    assert injected == survived >= len(TRIALS)
    assert all(any(line.startswith(f"| {fault} | ") for line in told) for fault in TRIALS)


def test_a_run_that_is_lost_is_reported_and_its_folder_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(_example: object, folder: Path, _chance: random.Random) -> Harm:
        folder.mkdir()
        return Harm(1, 0, 2, 3)

    nothing = runs.Example("none", Run(tmp_path), {}, 1.0, 1, 1)
    monkeypatch.setattr(chaos, "example", lambda *_: nothing)
    monkeypatch.setattr(chaos, "TRIALS", {"theft": (lose, 2)})
    monkeypatch.setattr(chaos.tempfile, "gettempdir", lambda: str(tmp_path))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{chaos.BEGIN}\nold\n{chaos.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(chaos, "PAGE", page)
    assert chaos.main(["--seed", "5"]) == 1
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "chaos: 2 injected, 0 survived"
    assert "| theft | 2 | 0 | 4 | 6 |" in told and "NOT survived: theft" in told
    assert (tmp_path / "chaos-5-0").is_dir()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| theft | 2 | 0 | 4 | 6 |" in text and "`chaos: 2 injected, 0 survived`" in text


def test_a_checkpoint_that_cannot_be_loaded_counts_as_lost_bytes(tmp_path: Path) -> None:
    run = runs.prepared(tmp_path / "run", "char")
    runs.train(run)
    assert runs.bytes_lost(run) == 0
    file = run.checkpoints()[0].path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert runs.bytes_lost(run) == sum(path.stat().st_size for path in file.parent.iterdir())
    assert runs.newest_step(run) == runs.last_step(run) == runs.STEPS


def test_the_same_bytes_are_what_survival_means(tmp_path: Path) -> None:
    run = runs.prepared(tmp_path / "run", "char")
    other = runs.Example("char", run, {"model.safetensors": b""}, 1.0, 1, 1)
    harm = trials.full_disk(other, tmp_path / "copy", random.Random(0))
    assert (harm.injected, harm.survived) == (1, 0)


def test_a_checkpoint_that_was_told_of_and_is_gone_is_no_survival(tmp_path: Path) -> None:
    whole = runs.example(tmp_path / "example", "char")
    run = whole.copied(tmp_path / "copy")
    runs.train(run)
    assert runs.taken_back(run) == (0, True)
    runs.train(whole.copied(tmp_path / "other"))
    other = Run(tmp_path / "other")
    shutil.rmtree(other.checkpoints()[-1].path)
    assert runs.taken_back(other) == (runs.STEPS - other.checkpoints()[-1].step, False)


def test_the_page_tells_of_every_fault() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in chaos.PAGE.read_text(encoding="utf-8").splitlines()]
    begin = rows.index("injected fault")
    assert rows[begin + 2 : begin + 2 + len(TRIALS)] == list(TRIALS)
