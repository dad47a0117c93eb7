"""`--tracking.to`: off unless asked for, refused before anything is made, kept by a run that is resumed."""

import subprocess
import sys
from pathlib import Path

import pytest

from llamita.runs.folder import Run
from tests.cli.command_line import TINY, llamita
from tests.tracking.fakes import install_trackio, install_wandb, only

STEPS = ("--training.steps", 4, "--training.log-every", 1)
OFF = """
import sys
from llamita.cli.app import main
main(sys.argv[1:])
found = [name for name in ("tensorboard", "wandb", "trackio") if name in sys.modules]
sys.exit(str(found) if found else 0)
"""


def test_nothing_of_trackers_is_imported_unless_asked_for(tiny_text: Path, tmp_path: Path) -> None:
    words = map(str, ("train", tiny_text, "--run", tmp_path / "run", *TINY, *STEPS))
    done = subprocess.run([sys.executable, "-c", OFF, *words], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "tensorboard").exists() and not (tmp_path / "run" / "tracking.json").exists()


def test_several_trackers_follow_a_run_from_train_to_resume(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards, run = install_trackio(monkeypatch), Run(tmp_path / "run")
    both = ("--tracking.to", "tensorboard", "--tracking.to", "trackio", "--tracking.project", "tales")
    told = llamita("train", tiny_text, "--run", run.path, *TINY, *STEPS, *both)
    assert told.code == 0, told.err
    assert f"tracked by tensorboard: tensorboard --logdir {run.path / 'tensorboard'}\n" in told.out
    assert "tracked by trackio: trackio show --project tales\n" in told.out
    assert run.config().tracking.to == ("tensorboard", "trackio")
    again = llamita("resume", run.path, "--training.steps", 6, "--json")
    assert again.json["step"] == 6 and "tracked by trackio" in again.err
    assert [step for step, _ in only(boards).series("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert len(list((run.path / "tensorboard").iterdir())) == 2


def test_a_file_may_ask_and_a_resumed_run_may_change_its_mind(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards, run = install_trackio(monkeypatch), Run(tmp_path / "run")
    file = tmp_path / "my.toml"
    file.write_text('[tracking]\nto = ["trackio"]\nproject = "tales"\n', encoding="utf-8")
    assert llamita("train", tiny_text, "--run", run.path, *TINY, *STEPS, "--config", file).code == 0
    assert only(boards).begins == 1
    assert llamita("resume", run.path, "--training.steps", 5, "--tracking.empty-to").code == 0
    assert run.config().tracking.to == () and only(boards).begins == 1
    assert llamita("resume", run.path, "--training.steps", 6, "--tracking.to", "trackio").code == 0
    assert only(boards).begins == 2


@pytest.mark.parametrize("command", ["train", "demo", "resume"])
def test_what_is_missing_is_told_before_anything_begins(
    command: str, tiny_text: Path, copied_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    new = tmp_path / "new"
    before = copied_run.config_file.read_bytes()
    places = {"train": (tiny_text, "--run", new, *TINY), "demo": ("--run", new), "resume": (copied_run.path,)}
    refused = llamita(command, *places[command], "--training.steps", 12, "--tracking.to", "tensorboard")
    assert refused.code == 1 and refused.out == ""
    remedy = "pip install 'llamita[track]', or go on without it: --tracking.empty-to"
    assert refused.err == f"llamita: --tracking.to tensorboard needs tensorboard: {remedy}\n"
    assert not new.exists() and copied_run.config_file.read_bytes() == before
    assert copied_run.checkpoints()[-1].step == 8


def test_a_login_that_is_missing_is_told_before_anything_begins(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_wandb(monkeypatch, logged_in=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    refused = llamita("train", tiny_text, "--run", tmp_path / "run", *TINY, "--tracking.to", "wandb")
    assert refused.code == 1 and "wandb login" in refused.err and "WANDB_MODE=offline" in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--tracking.to", "mlflow"), "mlflow"),
        (("--tracking.project", " "), "tracking.project = ' '"),
        (("--tracking.project", "a/b"), "tracking.project = 'a/b'"),
    ],
)
def test_what_is_no_tracker_or_project_is_a_usage_error(
    options: tuple[str, ...], named: str, tiny_text: Path, tmp_path: Path
) -> None:
    refused = llamita("train", tiny_text, "--run", tmp_path / "run", *TINY, *options)
    assert refused.code == 2 and named in refused.err + refused.out
    assert not (tmp_path / "run").exists()
