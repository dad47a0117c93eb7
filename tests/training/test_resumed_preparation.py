"""A preparation that was interrupted goes on with the same, and with nothing else."""

import errno
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llamita import layers
from llamita.errors import UsageError, UserError
from llamita.layers import Layer
from llamita.runs.lock import writing
from llamita.text import shards, sources
from llamita.text.tokenizer import Tokenizer
from llamita.training import preparation, prepare, stories
from llamita.training.prepare import Prepared, Progress, prepare_run, read_text
from tests.faults import Disk, Moment, die, ended, forked, lose_power
from tests.stopped import moments, stopped_at
from tests.training.tiny_runs import SMALL

SETTINGS = {**SMALL, "tokenizer.kind": "char", "data.validation_fraction": 0.3}


class Interrupted(BaseException):
    """As Ctrl-C."""


@pytest.fixture(autouse=True)
def small_pieces_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_DOCUMENTS", 2)
    monkeypatch.setattr(prepare, "resume_shards", partial(shards.resume_shards, journal_bytes=200, shard_tokens=300))
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three files, with three, one and four documents."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, numbers in (("a.jsonl", range(3)), ("c.jsonl", range(4, 8))):
        rows = [json.dumps({"text": story(number), "body": story(number + 20)}) for number in numbers]
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "b.txt").write_text(story(3), encoding="utf-8")
    return folder


def story(number: int) -> str:
    return f"Story {number}: " + f"the owl of tower {number} called, and the clöck struck {number}. " * 2 + "\n"


@dataclass(frozen=True, slots=True)
class Told(Prepared):
    """What was prepared, and what was told before that."""

    notices: tuple[str, ...]


def prepared(
    target: Path, names: Sequence[Path | str], settings: dict[str, Any] | None = None, progress: Progress | None = None
) -> Told:
    asked = [layers.from_dotted("", SETTINGS), Layer("", layers.from_dotted("", settings or {}).values)]
    notices: list[str] = []
    made = prepare_run(target, [str(name) for name in names], asked, progress, notices.append)
    return Told(made.run, made.text, made.tokenizer, made.corpora, tuple(notices))


def interrupt(
    target: Path, names: Sequence[Path | str], settings: dict[str, Any] | None = None, after_bytes: int = 500
) -> None:
    """Prepare until so much text is encoded."""

    def progress(doing: str, done: int, _total: int) -> None:
        if doing == "encoding the text" and done >= after_bytes:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepared(target, names, settings, progress)
    assert (target / "preparation.json").exists() and not (target / "config.toml").exists()


def content(target: Path) -> dict[str, bytes]:
    """All that a run consists of."""
    names = {"preparation.json", "journal.json", "lock.json"}
    files = [path for path in target.rglob("*") if path.is_file() and path.name not in names]
    return {str(path.relative_to(target)): path.read_bytes() for path in files}


def test_a_finished_preparation_leaves_only_what_a_run_is(texts: Path, tmp_path: Path) -> None:
    made = prepared(tmp_path / "run", [texts])
    assert made.notices == ()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("config.toml", "data", "environment.json", "tokenizer.json")
    }
    assert {path.name for path in (tmp_path / "run" / "data").iterdir()} == {"index.json", "train", "validation"}
    assert len(made.corpora.train.shards) > 1


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_at_any_moment_it_goes_on_to_the_same_run(step: int, texts: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    prepared(tmp_path / "whole", [texts])
    expected = content(tmp_path / "whole")
    went_on = 0
    for number, moment in moments(lambda: prepared(tmp_path / "counted", [texts]))[::step]:
        with stopped_at(number, moment):
            prepared(run, [texts])
        if (run / "config.toml").exists():
            with pytest.raises(UsageError, match="holds a run already"):
                prepared(run, [texts])
        else:
            went_on += bool(prepared(run, [texts]).notices)
        files = content(run)
        files.pop("lock.json", None)  # its owner died after the run was there
        assert files == expected, (number, moment)
        shutil.rmtree(run)
    assert went_on > 20


def test_a_killed_process_is_gone_on_with(texts: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    prepared(tmp_path / "whole", [texts])

    def work(number: int, moment: Moment) -> None:
        with Disk(number, moment, die).watched():
            prepared(run, [texts])

    deaths = moments(lambda: prepared(tmp_path / "counted", [texts]))
    ends: list[int] = []
    for at in range(10, len(deaths), 12):
        # The first time at an early moment, and then at two later ones.
        for number, moment in (deaths[at - 10], deaths[at // 2], deaths[at]):
            if not (run / "config.toml").exists():
                ends.append(ended(forked(partial(work, number, moment))))
        if not (run / "config.toml").exists():
            prepared(run, [texts])
        assert {name: data for name, data in content(run).items() if name != "lock.json"} == content(tmp_path / "whole")
        shutil.rmtree(run)
    assert set(ends) <= {0, -signal.SIGKILL} and ends.count(-signal.SIGKILL) > 9


def test_what_was_done_is_not_done_again(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    trained: list[str] = []
    records, make_tokenizer = sources.records, prepare.make_tokenizer

    def noting_records(source: sources.Source, *arguments: Any) -> Iterator[tuple[int, str]]:
        opened.append(Path(source.name).name)
        return records(source, *arguments)

    def noting_make(*arguments: Any) -> Tokenizer:
        trained.append("")
        return make_tokenizer(*arguments)

    monkeypatch.setattr(sources, "records", noting_records)
    monkeypatch.setattr(prepare, "make_tokenizer", noting_make)
    told: list[tuple[str, int, int]] = []
    interrupt(tmp_path / "run", [texts])
    assert opened == ["a.jsonl", "b.txt", "c.jsonl"] * 3 and len(trained) == 1
    opened.clear()
    made = prepared(tmp_path / "run", [texts], progress=lambda *what: told.append(what))
    assert opened == ["c.jsonl"] and len(trained) == 1
    assert {doing for doing, _, _ in told} == {"encoding the text"}
    size = sum(len(story(number).encode()) for number in range(8))
    assert told[0][1] > 400 and told[-1][1:] == (size, size)
    done = sum(len(story(number).encode()) for number in range(6))
    encoded = f"{done / 1e3:.1f} of {size / 1e3:.1f} kB are encoded already"
    assert made.notices == ("going on where preparing stood", encoded)
    assert (made.text.report.documents, made.text.report.bytes) == (8, size)


def test_what_stood_is_told_in_megabytes(tmp_path: Path) -> None:
    text = tmp_path / "long.jsonl"
    text.write_text((json.dumps({"text": "word " * 40_000}) + "\n") * 12, encoding="utf-8")
    interrupt(tmp_path / "run", [text], after_bytes=1_500_000)
    made = prepared(tmp_path / "run", [text])
    assert made.notices[1] == "1.6 of 2.4 MB are encoded already"


def append(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "One more."}) + "\n" if path.suffix == ".jsonl" else "One more.\n")


def write_later(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: append(folder / "b.txt"), r"b\.txt has changed since \({b} bytes -> {b10} bytes\)"),
        (lambda folder: write_later(folder / "a.jsonl"), r"a\.jsonl has changed since \({a} bytes as before, but"),
        (lambda folder: (folder / "b.txt").unlink(), r"b\.txt is no longer among the sources"),
        (lambda folder: append(folder / "d.txt"), r"d\.txt is new among the sources"),
    ],
)
def test_a_changed_source_is_named_and_all_begun_anew(
    change: Callable[[Path], object], told: str, texts: Path, tmp_path: Path
) -> None:
    sizes = {path.stem: path.stat().st_size for path in texts.iterdir()}
    interrupt(tmp_path / "run", [texts])
    change(texts)
    made = prepared(tmp_path / "run", [texts])
    assert len(made.notices) == 1 and made.notices[0].endswith(": preparing anew")
    with pytest.raises(UserError, match=told.format(**sizes, b10=sizes["b"] + 10)):
        raise UserError(made.notices[0])
    prepared(tmp_path / "fresh", [texts])
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


def test_sources_in_another_order_are_others(texts: Path, tmp_path: Path) -> None:
    files = sorted(texts.iterdir())
    interrupt(tmp_path / "run", files)
    made = prepared(tmp_path / "run", files[::-1])
    assert made.notices == ("the sources come in another order: preparing anew",)
    prepared(tmp_path / "fresh", files[::-1])
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("training.seed", 5, "training.seed was 0, is 5"),
        ("data.max_bytes", 900, "data.max_bytes was not set, is 900"),
        ("data.validation_fraction", 0.0, "data.validation_fraction was 0.3, is 0.0"),
        ("data.field", "body", "data.field was text, is body"),
        ("tokenizer.vocab_size", 8, "tokenizer.vocab_size was 320, is 8"),
        ("tokenizer.kind", "byte", "tokenizer.kind was char, is byte"),
    ],
)
def test_a_changed_setting_is_named_and_all_begun_anew(
    setting: str, value: object, told: str, texts: Path, tmp_path: Path
) -> None:
    interrupt(tmp_path / "run", [texts])
    made = prepared(tmp_path / "run", [texts], {setting: value})
    assert made.notices == (f"{told}: preparing anew",)
    prepared(tmp_path / "fresh", [texts], {setting: value})
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


def test_settings_that_tokens_do_not_depend_on_may_change(texts: Path, tmp_path: Path) -> None:
    interrupt(tmp_path / "run", [texts])
    made = prepared(tmp_path / "run", [texts], {"training.steps": 7, "model.n_layers": 1})
    assert made.notices[0] == "going on where preparing stood"
    assert (made.run.config().training.steps, made.run.config().model.n_layers) == (7, 1)


def test_another_given_tokenizer_is_told_by_its_content(texts: Path, tmp_path: Path) -> None:
    file, fingerprints = tmp_path / "given.json", []
    for text in ("abcdefgh", "The clöck and the owl of the tower."):
        Tokenizer.train([text], vocab_size=64, kind="char").save(file)
        fingerprints.append(Tokenizer.load(file).fingerprint[:12])
        if len(fingerprints) == 1:
            interrupt(tmp_path / "run", [texts], {"tokenizer.file": str(file)})
    made = prepared(tmp_path / "run", [texts], {"tokenizer.file": str(file)})
    assert made.notices == (f"tokenizer.file was {fingerprints[0]}..., is {fingerprints[1]}...: preparing anew",)
    prepared(tmp_path / "fresh", [texts], {"tokenizer.file": str(file)})
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


def test_a_tokenizer_instead_of_training_one_is_a_change(texts: Path, tmp_path: Path) -> None:
    interrupt(tmp_path / "run", [texts])
    Tokenizer.train([], vocab_size=0, kind="byte").save(tmp_path / "bytes.json")
    made = prepared(tmp_path / "run", [texts], {"tokenizer.file": str(tmp_path / "bytes.json")})
    assert made.tokenizer.kind == "byte"
    assert any(notice.startswith("tokenizer.file was not set, is ") for notice in made.notices)


def test_of_many_changes_a_few_are_named(tmp_path: Path) -> None:
    texts = [tmp_path / f"{number}.txt" for number in range(9)]
    for path in texts:
        path.write_text(story(1) * 9)
    interrupt(tmp_path / "run", texts)
    for path in texts:
        append(path)
    notices = prepared(tmp_path / "run", texts).notices
    assert len(notices) == 4
    assert notices[-1] == "6 more changes: preparing anew"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda note: note.write_text("{"), "is damaged"),
        (lambda note: note.write_text("[]"), "is damaged"),
        (lambda note: note.write_text('{"format": 1, "sources": 3}'), "is damaged"),
        (lambda note: note.write_text('{"format": 99}'), "is of another version"),
    ],
)
def test_a_note_that_cannot_be_used_is_told(
    damage: Callable[[Path], object], told: str, texts: Path, tmp_path: Path
) -> None:
    interrupt(tmp_path / "run", [texts])
    damage(tmp_path / "run" / "preparation.json")
    (notice,) = prepared(tmp_path / "run", [texts]).notices
    assert told in notice and notice.endswith(": preparing anew")
    prepared(tmp_path / "fresh", [texts])
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


def test_another_version_prepares_anew(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "run", [texts])
    before = preparation.__version__
    monkeypatch.setattr(preparation, "__version__", "99.0")
    assert prepared(tmp_path / "run", [texts]).notices == (f"llamita was {before}, is 99.0: preparing anew",)


def test_a_tokenizer_that_was_replaced_is_trained_again(texts: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "whole", [texts])
    for number, damage in enumerate((Tokenizer.train([], vocab_size=0, kind="byte").save, Path.unlink)):
        run = tmp_path / str(number)
        interrupt(run, [texts])
        damage(run / "tokenizer.json")
        prepared(run, [texts])
        assert content(run) == content(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["tokenizer", "encoding"])
def test_a_source_that_changes_meanwhile_is_an_error_that_names_it(
    moment: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tokenizer, changed = prepare.make_tokenizer, []

    def change() -> None:
        if not changed:
            changed.append(append(texts / "a.jsonl"))

    def changing_make(*arguments: Any) -> Tokenizer:
        made = make_tokenizer(*arguments)
        change()
        return made

    if moment == "tokenizer":
        monkeypatch.setattr(prepare, "make_tokenizer", changing_make)
    with pytest.raises(UserError, match=r"a\.jsonl has changed since .* and prepare again"):
        prepared(tmp_path / "run", [texts], progress=lambda doing, *_: change() if "encoding" in doing else None)
    assert not (tmp_path / "run" / "config.toml").exists()
    assert not (tmp_path / "run" / "lock.json").exists()
    (notice,) = prepared(tmp_path / "run", [texts]).notices
    assert "a.jsonl has changed since" in notice
    prepared(tmp_path / "fresh", [texts])
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


def test_a_source_that_vanishes_meanwhile_is_named(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read"):
        prepared(tmp_path / "run", [texts], progress=lambda *_: (texts / "a.jsonl").unlink(missing_ok=True))


def test_standard_input_must_say_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))

    text = "".join(map(story, range(20)))
    say(text)
    interrupt(tmp_path / "run", ["-"])
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    say(text)
    assert prepared(tmp_path / "run", ["-"]).notices[0] == "going on where preparing stood"
    say(text.replace("owl", "cat"))
    (notice,) = prepared(tmp_path / "other", ["-"]).notices
    size = len(text.encode())
    assert notice == f"standard input has changed since ({size} bytes as before, but others): preparing anew"


def test_a_full_disk_is_told_of_and_gone_on_after(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "whole", [texts])
    expected, real = content(tmp_path / "whole"), os.write
    with Disk().watched() as disk:
        prepared(tmp_path / "counted", [texts])
    assert disk.calls.count("write") > 9
    for full_from in range(disk.calls.count("write")):
        run, calls = tmp_path / str(full_from), iter(range(1000))

        def write(descriptor: int, data: Any, calls: Iterator[int] = calls, full_from: int = full_from) -> int:
            if next(calls) >= full_from:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(UserError, match="No space left on device"):
            prepared(run, [texts])
        monkeypatch.setattr(os, "write", real)
        assert not (run / "config.toml").exists() and not (run / "lock.json").exists()
        prepared(run, [texts])
        assert content(run) == expected


def test_nobody_else_prepares_or_trains_there_meanwhile(texts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused = []

    def intrude(doing: str, _done: int, _total: int) -> None:
        if doing != "encoding the text":
            return
        before = content(run)
        with pytest.raises(UserError, match="is being written by process"):
            prepared(run, [texts], {"training.seed": 9})
        assert content(run) == before
        refused.append(doing)

    prepared(run, [texts], progress=intrude)
    assert len(refused) > 2
    prepared(tmp_path / "fresh", [texts])
    assert content(run) == content(tmp_path / "fresh")


def test_a_folder_that_is_held_is_refused_before_anything_is_read(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "run", [texts])
    note = (tmp_path / "run" / "preparation.json").read_bytes()
    before = content(tmp_path / "run")
    monkeypatch.setattr(prepare, "find", None)
    with writing(tmp_path / "run"), pytest.raises(UserError, match="is being written by process"):
        prepared(tmp_path / "run", [texts], {"training.seed": 9})
    assert content(tmp_path / "run") == before
    assert (tmp_path / "run" / "preparation.json").read_bytes() == note


def test_a_run_that_came_to_be_meanwhile_is_left_alone(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = tmp_path / "run", prepare.read_text

    def read_text(*arguments: Any) -> prepare.Text:
        monkeypatch.setattr(prepare, "read_text", real)
        prepared(run, [texts], {"training.seed": 9})
        return real(*arguments)

    monkeypatch.setattr(prepare, "read_text", read_text)
    with pytest.raises(UsageError, match="holds a run already"):
        prepared(run, [texts])
    prepared(tmp_path / "fresh", [texts], {"training.seed": 9})
    assert content(run) == content(tmp_path / "fresh")


@pytest.mark.parametrize("unfit", [{"tokenizer.vocab_size": 3}, {"tokenizer.file": "no.json"}, {"optimizer.lr": -1.0}])
def test_an_unfit_setting_leaves_an_interrupted_preparation_as_it_is(
    unfit: dict[str, Any], texts: Path, tmp_path: Path
) -> None:
    interrupt(tmp_path / "run", [texts])
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        prepared(tmp_path / "run", [texts], unfit)
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert prepared(tmp_path / "run", [texts]).notices[0] == "going on where preparing stood"


def test_a_run_that_was_just_made_survives_a_power_cut(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"

    def make() -> None:
        with Disk(root=tmp_path).watched() as disk:
            prepared(folder, [texts])
            lose_power(disk)

    assert ended(forked(make)) < 0
    prepared(tmp_path / "fresh", [texts])
    assert content(folder) == content(tmp_path / "fresh")


def test_what_changed_is_told_before_anything_is_done_so_that_a_second_interruption_hides_nothing(
    texts: Path, tmp_path: Path
) -> None:
    interrupt(tmp_path / "run", [texts])
    append(texts / "b.txt")
    told: list[str] = []

    def notify(notice: str) -> None:
        told.append(notice)
        raise Interrupted

    asked = [layers.from_dotted("", SETTINGS)]
    for _ in range(2):
        with pytest.raises(Interrupted):
            prepare_run(tmp_path / "run", [str(texts)], asked, notify=notify)
    assert len(told) == 2 and told[0] == told[1] and "b.txt has changed since" in told[0]


def test_a_source_that_is_written_while_the_tokenizer_is_trained_gives_none(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writing_make(*arguments: Any) -> Tokenizer:
        append(texts / "b.txt")
        return prepare_tokenizer(*arguments)

    prepare_tokenizer = prepare.make_tokenizer
    monkeypatch.setattr(prepare, "make_tokenizer", writing_make)
    with pytest.raises(UserError, match=r"b\.txt has changed since .* wait until nothing writes there"):
        prepared(tmp_path / "run", [texts])
    assert not (tmp_path / "run" / "tokenizer.json").exists()


def test_reading_shows_how_far_it_is_in_the_files(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"{number} " * 50_000}) + "\n" for number in range(60)).encode()
    for name in ("a.jsonl", "b.jsonl.zst"):
        with pa.output_stream(str(tmp_path / name), compression="detect") as file:
            file.write(rows)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    told: list[tuple[str, int, int]] = []
    text = read_text([str(tmp_path)], "text", lambda *what: told.append(what))
    assert text.counts == (60, 60)
    assert {(doing, size) for doing, _, size in told} == {("reading the text", total)}
    done = [done for _, done, _ in told]
    assert done == sorted(done) and len(done) > 10 and done[-1] == total


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_story_preparation_that_was_stopped_at_any_moment_is_begun_anew(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = stories.StoryWorld(seed=0)
    monkeypatch.setattr(stories, "StoryWorld", lambda **_: world)
    monkeypatch.setattr(stories, "_FEWEST_STORIES", 100)
    monkeypatch.setattr(stories, "_VALIDATION_STORIES", 20)
    monkeypatch.setattr(shards, "GROUP_DOCUMENTS", 40)
    settings = {"training.steps": 1, "training.batch_size": 1, "training.device": "cpu"}
    asked = [layers.from_dotted("", settings)]
    stories.prepare_stories(tmp_path / "whole", asked)
    expected, run = content(tmp_path / "whole"), tmp_path / "stopped"
    for number, moment in moments(lambda: stories.prepare_stories(tmp_path / "counted", asked))[::step]:
        with stopped_at(number, moment):
            stories.prepare_stories(run, asked)
        if not (run / "config.toml").exists():
            stories.prepare_stories(run, asked)
        files = content(run)
        files.pop("lock.json", None)
        assert files == expected, (number, moment)
        shutil.rmtree(run)
