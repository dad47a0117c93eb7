"""Later checkpoints move aside; nothing is ever removed."""

from pathlib import Path

import pytest

from llamita.errors import UserError
from llamita.runs.abandon import set_aside
from llamita.runs.folder import Run


def run_with(folder: Path, *names: str) -> Run:
    """A run of checkpoints that hold nothing but their name."""
    for name in names:
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "note").write_text(name, encoding="utf-8")
    return Run(folder)


def tree(run: Run) -> dict[str, str]:
    """The notes in a run's checkpoints."""
    folder = run.checkpoint_folder
    return {str(path.parent.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("note")}


def test_later_checkpoints_move_whatever_they_hold(tmp_path: Path) -> None:
    run = run_with(tmp_path, "step_00000002", "step_00000010", "step_00000003", "step_new", ".step_00000011.7")
    moved = set_aside(run, after=2)
    folder = run.checkpoint_folder / "abandoned"
    assert moved == [folder / "step_00000003", folder / "step_00000010"]
    assert tree(run) == {
        "step_00000002": "step_00000002",
        "step_new": "step_new",
        ".step_00000011.7": ".step_00000011.7",
        "abandoned/step_00000003": "step_00000003",
        "abandoned/step_00000010": "step_00000010",
    }


def test_what_was_set_aside_before_stays(tmp_path: Path) -> None:
    run = run_with(tmp_path, "step_00000002", "abandoned/step_00000002", "abandoned/step_00000002.2")
    assert [path.name for path in set_aside(run, after=-1)] == ["step_00000002.3"]
    assert len(tree(run)) == 3


def test_nothing_happens_where_nothing_is_later(tmp_path: Path) -> None:
    run = run_with(tmp_path, "step_00000002")
    assert set_aside(run, after=2) == []
    assert [path.name for path in run.checkpoint_folder.iterdir()] == ["step_00000002"]
    assert set_aside(Run(tmp_path / "new"), after=0) == []


def test_what_cannot_be_moved_is_told(tmp_path: Path) -> None:
    run = run_with(tmp_path, "step_00000002")
    (run.checkpoint_folder / "abandoned").touch()
    with pytest.raises(UserError, match="can't be moved to abandoned/"):
        set_aside(run, after=0)
