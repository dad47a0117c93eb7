import json
from pathlib import Path

import pytest

from llamita.cli.app import main
from llamita.runs.folder import Run
from llamita.text.storyworld import StoryWorld


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        main([*arguments, "--debug"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SHORT = ("--training.steps", "12", "--training.eval-every", "12", "--precision", "fp32", "--training.threads", "1")


def test_the_demo_shows_the_road_and_repeats_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    code, printed, _ = run_cli(capsys, "demo", "--run", str(folder), *SHORT, "--seed", "3")
    assert code == 0
    parts = ("the king loves his dog", "(6,)", "(1, 6, 96)", "above the floor", "before:", "once there was", "next")
    for part in parts:
        assert part in printed
    first = json.loads((folder / "report.json").read_text())
    assert first["gap"] == first["val_loss"] - first["floor"] > 0
    assert 1.1 < first["floor"] < 1.6
    assert (folder / "loss.png").stat().st_size > 10_000
    losses = [row["val_loss"] for row in Run.open(folder).metrics() if "val_loss" in row]
    assert losses[-1] == first["val_loss"] < losses[0] - 1

    # The folder's demo is replaced, and its figures come again.
    code, printed, _ = run_cli(capsys, "demo", "--run", str(folder), *SHORT, "--seed", "3", "--json")
    assert code == 0
    second = json.loads(printed)
    assert second == json.loads((folder / "report.json").read_text())
    for report in (first, second):
        del report["seconds"], report["total_seconds"]
    assert first == second


def test_the_demo_leaves_other_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "book.txt"
    text.write_text(" ".join(story.text for story in StoryWorld().stories(40, seed=1)))
    small = ("--model.n-embd", "32", "--model.n-layers", "1", "--model.n-heads", "2", "--training.steps", "2")
    run_cli(capsys, "train", str(text), "--run", str(tmp_path / "mine"), *small)
    before = (tmp_path / "mine" / "config.toml").read_text()
    with pytest.raises(ValueError, match="isn't the demo's"):
        run_cli(capsys, "demo", "--run", str(tmp_path / "mine"), *SHORT)
    assert (tmp_path / "mine" / "config.toml").read_text() == before
