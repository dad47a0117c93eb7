"""Events pass by trackers unchanged; a tracker that fails is told of once, and the run is the same without it."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamita.files import File
from llamita.runs.folder import Run
from llamita.text.batches import Position
from llamita.tracking import tracked as tracked_module
from llamita.tracking.figures import figures, step_of, texts
from llamita.tracking.tracked import tracked
from llamita.training.evaluate import Band, Evaluation
from llamita.training.events import Abandoned, Evaluated, Event, Rewound, Sampled, StepsSkipped
from llamita.training.guard import Skipped
from llamita.training.loop import StepMetrics
from llamita.training.session import Session
from tests.training.tiny_runs import checkpoint_bytes, small_run, trained

TRACKED = {"tracking.to": ["tensorboard"], "training.sample_tokens": 4, "training.eval_every": 2}


class Recording:
    """A tracker that notes what it's told, and fails at one of its methods."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[object, ...]] = []
        self._failing = failing

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if call[0] == self._failing:
            raise ConnectionError("the network is gone\nand more of it")

    def start(self, step: int, /) -> str:
        self._note("start", step)
        return "here"

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        self._note("scalars", step, *figures)

    def text(self, step: int, name: str, text: str) -> None:
        self._note("text", step, name, text)

    def finish(self, failed: bool, /) -> None:
        self._note("finish", failed)


@pytest.fixture
def run(tiny_text: Path, tmp_path: Path) -> Run:
    return small_run(tmp_path / "book", tiny_text, TRACKED)


def watched(run: Run, tracker: Recording, monkeypatch: pytest.MonkeyPatch, *events: Event) -> list[str]:
    """Have a tracker see events, or all of a training; gives what was told."""
    monkeypatch.setitem(tracked_module._KINDS, "tensorboard", lambda *_: tracker)
    session, told = Session(run), list[str]()
    given = events or session.events()
    passed = list(tracked(given, session, told.append))
    assert not events or passed == list(events)
    return told


def test_trackers_change_no_bit_of_a_run(run: Run, tiny_text: Path, tmp_path: Path) -> None:
    alone = small_run(tmp_path / "alone", tiny_text, {**TRACKED, "tracking.to": []})
    session = Session(run)
    events = [type(event) for event in tracked(session.events(), session, lambda _: None)]
    assert events == [type(event) for event in trained(alone)]
    assert checkpoint_bytes(run) == checkpoint_bytes(alone)


@pytest.mark.parametrize("method", ["start", "scalars", "text", "finish"])
def test_a_tracker_that_fails_is_told_of_once_and_left_out(
    method: str, run: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Recording(method)
    told = watched(run, tracker, monkeypatch)
    assert told[-1] == "warning: tensorboard is left out from here on: the network is gone"
    assert sum("left out" in line for line in told) == 1
    assert [call[0] for call in tracker.calls].index(method) == len(tracker.calls) - 1
    trained(alone := small_run(tmp_path / "alone", tiny_text, {**TRACKED, "tracking.to": []}))
    assert checkpoint_bytes(run) == checkpoint_bytes(alone)


def test_one_that_cannot_even_be_made_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Recording:
        raise TypeError("Descriptors cannot be created directly")

    monkeypatch.setitem(tracked_module._KINDS, "tensorboard", broken)
    session, told = Session(run), list[str]()
    assert len(list(tracked_module.tracked(session.events(), session, told.append))) > 3
    assert told == ["warning: tensorboard is left out from here on: Descriptors cannot be created directly"]


def test_one_that_fails_takes_no_other_with_it(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Recording()
    monkeypatch.setitem(tracked_module._KINDS, "wandb", lambda *_: Recording("start"))
    both = small_run(tmp_path / "book", tiny_text, {**TRACKED, "tracking.to": ["wandb", "tensorboard", "wandb"]})
    told = watched(both, good, monkeypatch)
    assert [line.partition(":")[0] for line in told] == [
        "warning",
        "tracked by tensorboard",
    ]
    assert good.calls[0] == ("start", -1) and good.calls[-1] == ("finish", False)


def test_a_full_disk_costs_the_tracker_and_nothing_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = File.write, list[int]()

    def full(file: File, data: bytes) -> int:
        if "tfevents" in os.readlink(f"/proc/self/fd/{file.fileno()}"):
            calls.append(len(data))
            if len(calls) > 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(File, "write", full)
    session, told = Session(run), list[str]()
    events = list(tracked(session.events(), session, told.append))
    assert len(told) == 2 and "No space left on device" in told[1]
    assert len(calls) == 21 and session.state.step == 4 and len(events) > 8


def skipped(step: int) -> Skipped:
    return Skipped(step, "a spike", 9.0, 100.0, Position())


def test_going_back_is_told_before_what_comes_after(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recording()
    report = StepMetrics(4, 400, 2.0, 1e-3, 1.0, 100.0, (skipped(3), skipped(4)), 2)
    again = StepMetrics(2, 500, 2.0, 1e-3, 1.0, 100.0)
    events = (Abandoned(()), report, StepsSkipped(report.skipped, ()), Rewound(4, 1, 2), again)
    watched(run, tracker, monkeypatch, *events)
    kinds = [call[:2] for call in tracker.calls]
    assert kinds == [
        *(("start", -1), ("scalars", 4), ("text", 4), ("start", 1), ("text", 1), ("scalars", 2), ("finish", False)),
    ]


def test_what_was_skipped_is_filed_under_the_step_that_reports_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recording()
    report = StepMetrics(10, 400, 2.0, 1e-3, 1.0, 100.0, (skipped(7),))
    watched(run, tracker, monkeypatch, report, StepsSkipped(report.skipped, ()))
    assert tracker.calls[2][:3] == ("text", 10, "incidents")
    assert "skipped step 7: a spike (loss 9, gradient norm 100)" in str(tracker.calls[2][3])


def test_every_figure_has_the_name_that_it_is_looked_for_by() -> None:
    metrics = StepMetrics(3, 400, 2.0, 1e-3, 1.0, 100.0, (skipped(3),))
    assert figures(metrics) == {
        **{"train/loss": 2.0, "train/lr": 1e-3, "train/grad_norm": 1.0, "train/tokens_per_second": 100.0},
        **{"train/tokens": 400.0, "train/skipped": 1.0},
    }
    result = Evaluation(0.0, 10, 20, 0.5, bands=(Band(0, 1, 3.0), Band(100, 9, 1.0)))
    assert figures(Evaluated(3, result)) == {
        **{"eval/loss": 0.0, "eval/perplexity": 1.0, "eval/bits_per_byte": 0.5},
        **{"eval/loss_band_0": 3.0, "eval/loss_band_100": 1.0},
    }
    assert step_of(metrics) == step_of(Evaluated(3, result)) == step_of(Sampled(3, "")) == 3
    assert texts(Sampled(3, "Once")) == {"sample": "Once"}


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e6])
def test_what_is_no_number_is_left_out(loss: float) -> None:
    found = figures(Evaluated(3, Evaluation(loss, 10, 20, None)))
    assert found == ({"eval/loss": loss} if loss == 1e6 else {})
    assert "train/loss" not in figures(StepMetrics(3, 4, float("nan"), 1e-3, 1.0, 100.0))
