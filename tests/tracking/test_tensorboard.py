"""TensorBoard's own reader finds what metrics.jsonl has, each step once, whatever the run went through."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.util import tensor_util

from llamita import layers
from llamita.errors import UserError
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.tracking.tensorboard import TensorBoard
from llamita.tracking.tracked import tracked
from llamita.training.session import Session
from tests.training.tiny_runs import small_run

TRACKED = {"tracking.to": ["tensorboard"], "training.steps": 8, "training.save_every": 2, "training.eval_every": 4}
FIGURES = ("loss", "lr", "grad_norm", "tokens_per_second", "tokens", "skipped")


@pytest.fixture
def run(tiny_text: Path, tmp_path: Path) -> Run:
    """A run of 8 steps that TensorBoard is to follow, not begun yet."""
    return small_run(tmp_path / "book", tiny_text, TRACKED | {"training.keep_last": 9, "training.sample_tokens": 4})


def go_on(run: Run, until: int | None = None, begin: str | None = None) -> list[str]:
    """Train as a new process would, and stop as after a signal; gives what was told."""
    session, told = Session(run, begin=begin), list[str]()
    for _ in tracked(session.events(lambda: session.state.step == until), session, told.append):
        pass
    return told


def seen(run: Run) -> EventAccumulator:
    reader = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"tensors": 0})
    reader.Reload()
    return reader


def series(reader: EventAccumulator, name: str) -> list[tuple[int, Any]]:
    return [(event.step, tensor_util.make_ndarray(event.tensor_proto).tolist()) for event in reader.Tensors(name)]


def assert_shows(run: Run) -> None:
    """All of metrics.jsonl is there, and nothing else."""
    reader, rows = seen(run), list(run.metrics())
    for name in FIGURES:
        wanted = [(row["step"], row[name]) for row in rows if "loss" in row]
        assert_same(series(reader, f"train/{name}"), wanted)
    for name, key in {"loss": "val_loss", "bits_per_byte": "bits_per_byte"}.items():
        assert_same(series(reader, f"eval/{name}"), [(row["step"], row[key]) for row in rows if key in row])


def assert_same(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> None:
    assert [step for step, _ in found] == [step for step, _ in wanted] and wanted
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_figures_are_those_of_the_run(run: Run) -> None:
    told = go_on(run)
    assert told == [f"tracked by tensorboard: tensorboard --logdir {run.path / 'tensorboard'}"]
    assert_shows(run)
    reader = seen(run)
    losses, perplexities = series(reader, "eval/loss"), series(reader, "eval/perplexity")
    assert [value for _, value in perplexities] == pytest.approx([math.exp(value) for _, value in losses], rel=1e-5)
    bands = [row["val_loss_by_frequency"] for row in run.metrics() if "val_loss" in row]
    for least in bands[0]:
        wanted = list(zip((0, 4, 8), [band[least] for band in bands], strict=True))
        assert_same(series(reader, f"eval/loss_band_{least}"), wanted)


def test_a_run_that_was_stopped_goes_on_where_it_was(run: Run) -> None:
    go_on(run, until=3)
    go_on(run, until=5)
    go_on(run)
    assert_shows(run)
    assert [step for step, _ in series(seen(run), "train/loss")] == list(range(1, 9))


@pytest.mark.parametrize(("begin", "kept"), [("4", 4), ("initial", 0)])
def test_what_a_run_left_behind_when_it_went_back_is_gone(begin: str, kept: int, run: Run) -> None:
    go_on(run, until=6)
    session = Session(run, begin=begin)
    behind = tracked(session.events(lambda: True), session, lambda _: None)
    for _ in behind:
        pass
    assert [step for step, _ in series(seen(run), "train/loss")] == list(range(1, kept + 2))
    go_on(run)
    assert_shows(run)


def test_a_process_that_was_killed_leaves_nothing_that_hinders_the_next(run: Run) -> None:
    session = Session(run)
    events = tracked(session.events(), session, lambda _: None)
    while session.state.step < 7:
        next(events)
    session._saver.outcome(wait=True)
    events.close()
    (file,) = (run.path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    go_on(run)
    assert_shows(run)


def test_a_run_that_goes_back_by_itself_takes_its_figures_back(tiny_text: Path, tmp_path: Path) -> None:
    rewinding = {
        **{"training.steps": 200, "training.batch_size": 1, "optimizer.lr": 0.1, "training.save_every": 50},
        **{"optimizer.schedule": "wsd", "training.max_z_score": 0.01, "training.rewind_after": 2},
    }
    run = small_run(tmp_path / "book", tiny_text, TRACKED | rewinding)
    with pytest.raises(UserError, match="diagnosis"):
        go_on(run)
    incidents = map(json.loads, run.incidents_file.read_text(encoding="utf-8").splitlines())
    assert "rewound" in {row["kind"] for row in incidents}
    assert_shows(run)
    told = "\n".join(value[0].decode() for _, value in series(seen(run), "incidents/text_summary"))
    assert "went back from step" in told


def test_samples_stand_there_as_they_are(run: Run) -> None:
    board = TensorBoard(run, run.config())
    board.start(-1)
    board.text(3, "sample", "# one\n\n  * two <b>")
    board.finish(False)
    assert series(seen(run), "sample/text_summary") == [(3, [b"    # one\n    \n      * two <b>"])]


def test_the_config_stands_beside_the_figures(run: Run) -> None:
    go_on(run, until=1)
    content = seen(run).summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    kinds = {"bool": "number_value", "int": "number_value", "float": "number_value", "str": "string_value"}
    for name, value in layers.flat(run.config()).items():
        kind = kinds.get(type(value).__name__)
        if kind is not None:
            assert getattr(told[name], kind) == value
    assert told["optimizer.betas"].string_value == "0.9, 0.95" and told["training.keep_every"].string_value == "off"
    (_, (text,)), *_ = series(seen(run), "config/text_summary")
    assert text.decode().replace("\n    ", "\n").strip() == layers.to_toml(run.config()).strip()


def test_a_second_process_that_is_refused_takes_nothing_back(run: Run) -> None:
    go_on(run, until=4)
    before = {path: path.read_bytes() for path in (run.path / "tensorboard").iterdir()}
    with writing(run.path), pytest.raises(UserError, match="is being written"):
        go_on(run, begin="initial")
    assert {path: path.read_bytes() for path in (run.path / "tensorboard").iterdir()} == before
