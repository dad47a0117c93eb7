"""wandb and trackio are asked for one run a run, in order of steps; and nothing of them asks who is there."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from llamita.config import TrackingConfig
from llamita.errors import UserError
from llamita.runs.folder import Run
from llamita.tracking.tracked import check_trackers, tracked
from llamita.tracking.tracker import run_id
from llamita.training.session import Session
from tests.tracking.fakes import in_order, install_trackio, install_wandb, only
from tests.training.tiny_runs import small_run

TRACKED = {
    "training.steps": 8,
    "training.save_every": 2,
    "training.keep_last": 9,
    "training.eval_every": 4,
    "training.sample_tokens": 4,
}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_DIR", raising=False)


def tracked_run(text: Path, folder: Path, name: str) -> Run:
    return small_run(folder / "book", text, TRACKED | {"tracking.to": [name], "tracking.project": "tales"})


def go_on(run: Run, until: int | None = None, begin: str | None = None) -> list[str]:
    session, told = Session(run, begin=begin), list[str]()
    for _ in tracked(session.events(lambda: session.state.step == until), session, told.append):
        pass
    return told


def test_wandb_gets_one_run_with_the_config_and_every_figure(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards, run = install_wandb(monkeypatch), tracked_run(tiny_text, tmp_path, "wandb")
    assert go_on(run, until=3) == ["tracked by wandb: https://wandb.test/run"]
    go_on(run)
    assert boards.keys() == {("tales", run_id(run))}
    board = only(boards)
    assert board.begins == 2 and board.ends == [0, 0]
    assert board.arguments == {"name": "book", "resume": "allow", "dir": str(tmp_path)}
    assert board.config == asdict(run.config())
    losses = [(row["step"], row["loss"]) for row in run.metrics() if "loss" in row]
    assert board.series("train/loss") == losses and len(losses) == 8
    held_out = [(row["step"], row["val_loss"]) for row in run.metrics() if "val_loss" in row]
    assert board.series("eval/loss") == held_out and len(held_out) == 3
    assert board.settings["console"] == "off" and board.settings["finish_timeout"] > 0


def test_wandb_keeps_its_files_where_the_user_said(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards, run = install_wandb(monkeypatch), tracked_run(tiny_text, tmp_path, "wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert go_on(run, until=1) == ["tracked by wandb: wandb sync runs/wandb/offline-run-1"]
    assert only(boards).arguments["dir"] is None


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_steps_that_are_taken_again_are_told_once_and_in_order(
    name: str, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = install_wandb(monkeypatch) if name == "wandb" else install_trackio(monkeypatch)
    run = tracked_run(tiny_text, tmp_path, name)
    go_on(run, until=6)
    before = list(only(boards).rows)
    go_on(run, begin="2")
    board = only(boards)
    assert board.begins == 2 and board.rows[: len(before)] == before
    assert in_order(board.steps)
    assert [step for step, _ in board.series("train/loss")] == list(range(1, 9))


def test_trackio_gets_one_run_and_prints_nothing(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boards, run = install_trackio(monkeypatch), tracked_run(tiny_text, tmp_path, "trackio")
    assert go_on(run) == ["tracked by trackio: trackio show --project tales"]
    assert boards.keys() == {("tales", f"book-{run_id(run)[:6]}")}
    board = only(boards)
    assert board.config == asdict(run.config()) and board.ends == [0]
    assert board.series("train/loss") == [(row["step"], row["loss"]) for row in run.metrics() if "loss" in row]
    assert capsys.readouterr().out == ""


def test_samples_are_shown_and_not_obeyed(tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards, run = install_wandb(monkeypatch), tracked_run(tiny_text, tmp_path, "wandb")
    go_on(run)
    (sample,) = (run.path / "samples").glob("*4.txt")
    ((step, shown), *_) = only(boards).series("sample")
    bare = shown.data.partition(">")[2].removesuffix("</pre>")
    assert step == 4 and "<" not in bare
    for written, read in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#x27;", "'"), ("&amp;", "&")):
        bare = bare.replace(written, read)
    assert bare + "\n" == sample.read_bytes().decode()


def test_a_run_that_fails_is_marked_so(tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards, run = install_wandb(monkeypatch), tracked_run(tiny_text, tmp_path, "wandb")
    session = Session(run)
    events = tracked(session.events(), session, lambda _: None)
    next(events)
    with pytest.raises(RuntimeError):
        events.throw(RuntimeError())  # type: ignore[attr-defined]
    assert only(boards).ends == [1]


def test_a_run_has_one_id_and_another_run_another(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append(Run(tmp_path / name))
    assert run_id(runs[0]) == run_id(runs[0]) != run_id(runs[1])


@pytest.mark.parametrize("note", ["", "[]", '{"id": 3}', '{"id": "../../x"}', "[" * 5000, "x" * 5000, "\ud800"])
def test_a_damaged_id_is_named(note: str, tmp_path: Path) -> None:
    path = tmp_path / "tracking.json"
    path.write_bytes(note.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="tracking.json: .*remove it"):
        run_id(Run(tmp_path))


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "track"), ("wandb", "wandb"), ("trackio", "trackio")])
def test_without_its_package_a_tracker_names_its_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"--tracking.to {name} needs {name}: pip install 'llamita\[{extra}\]'"):
        check_trackers(TrackingConfig(to=(name,)))


def test_wandb_without_a_login_is_refused_rather_than_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = TrackingConfig(to=("wandb",))
    install_wandb(monkeypatch, logged_in=False)
    with pytest.raises(UserError, match="`wandb login`, or set WANDB_MODE=offline"):
        check_trackers(asked)
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        check_trackers(asked)
    monkeypatch.setenv("WANDB_MODE", "online")
    install_wandb(monkeypatch)
    check_trackers(asked)


def test_a_wandb_that_is_too_old_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install_wandb(monkeypatch)

    def login(*, verify: bool) -> bool:
        return verify

    monkeypatch.setattr(sys.modules["wandb"], "login", login)
    with pytest.raises(UserError, match=r"version 0.0 is too old; pip install -U 'llamita\[wandb\]'"):
        check_trackers(TrackingConfig(to=("wandb",)))


def test_what_wandb_complains_of_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    install_wandb(monkeypatch)

    def refuse(**_: object) -> bool:
        raise ValueError("API key is 3 characters long")

    monkeypatch.setattr(sys.modules["wandb"], "login", refuse)
    with pytest.raises(UserError, match="API key is 3 characters long; check it with `wandb login`"):
        check_trackers(TrackingConfig(to=("wandb",)))
