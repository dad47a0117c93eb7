"""Raw text into a run folder: a tokenizer, token shards and a config in which every field has a value."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from llamita import layers
from llamita.config import DataConfig, RunConfig, TokenizerConfig
from llamita.errors import UsageError, UserError
from llamita.layers import Layer
from llamita.runs.folder import Run
from llamita.runs.start import forget_start
from llamita.text.holdout import byte_length
from llamita.text.shards import Corpora, remove_journal, resume_shards
from llamita.text.sources import Document, ReadReport, Source, Stamp, find, pin, read, read_from
from llamita.text.tokenizer import Tokenizer
from llamita.training.hardware import Hardware, choose_hardware
from llamita.training.preparation import (
    Preparation,
    changed_sources,
    claimed,
    forget_preparation,
    load_preparation,
    reading_settings,
    stamps,
    token_settings,
)
from llamita.training.sizes import hardware_layer, never_predicted, pick_sizes, pick_vocab_size, vocabulary_layer
from llamita.training.start import Start
from llamita.training.tuning import tuned

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]
# Called with what there is to say of an earlier try.
Notify = Callable[[str], None]

_STEP_BYTES, _ROUGH_BYTES_PER_TOKEN = 1 << 20, 3
_PACKED = 0.3  # about as many bytes of a compressed file hold a byte of text
_CHANGES_TOLD = 3


@dataclass(frozen=True, slots=True)
class Text:
    """Sources that were found and read once, so that their size is known.

    stamps: what they were before that. counts: the number of documents of each.
    """

    sources: list[Source]
    field: str
    max_bytes: int | None
    report: ReadReport
    stamps: tuple[Stamp, ...]
    counts: tuple[int, ...]

    def documents(self, doing: str, progress: Progress | None) -> Iterator[str]:
        """The text of each document."""
        done = reported = 0
        for document in read(self.sources, field=self.field, max_bytes=self.max_bytes):
            done += byte_length(document.text)
            if progress and done - reported > _STEP_BYTES:
                progress(doing, done, self.report.bytes)
                reported = done
            yield document.text

    def documents_from(self, number: int) -> Iterator[Document]:
        """The documents from a number on; sources that are over by then are not opened."""
        return read_from(number, self.sources, self.counts, field=self.field, max_bytes=self.max_bytes)

    def check_unchanged(self) -> None:
        """UserError if a file isn't what it was when it was found."""
        pairs = zip(self.sources, self.stamps, strict=True)
        files = [(source, before) for source, before in pairs if source.content is None]
        changes = changed_sources([before for _, before in files], stamps([source for source, _ in files]))
        if changes:
            told = "; ".join(_first(changes))
            raise UserError(f"{told}: wait until nothing writes there any more, and prepare again")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run folder that is ready to train, and what went into it."""

    run: Run
    text: Text
    tokenizer: Tokenizer
    corpora: Corpora


def prepare_run(
    target: Path,
    sources: Sequence[str],
    asked: list[Layer],
    progress: Progress | None = None,
    notify: Notify = lambda _: None,
    start: Start | None = None,
) -> Prepared:
    """Make a run folder of sources (none: those of the settings) and partial settings, and of weights to start with.

    UserError for sources that can't be read and UsageError for settings that don't fit, before anything is
    written. config.toml comes last: a folder without it is no run yet. Interrupted at any moment, the same call
    goes on where it stood; with other sources or settings it begins anew, and says before that what differs.
    """
    sourced = [*asked, Layer("command line", {"data": {"sources": list(sources)}} if sources else {})]
    data, hardware = known_first(sourced)
    if not data.sources:
        raise UsageError("no text to train on; for example: llamita train book.txt")
    pins, sourced = _pinned(data.sources, sourced)
    if start is not None:
        sourced.insert(0, start.layer(hardware.device))
    with ExitStack() as held:
        # A folder that isn't there yet is made when nothing is left to complain about.
        run = held.enter_context(claimed(target)) if os.path.exists(target) else None
        before, changes = load_preparation(target)
        text = read_text(pins, data.field, progress, before, data.max_bytes)
        rough_tokens = max(text.report.bytes // _ROUGH_BYTES_PER_TOKEN, 1)
        vocab_size = pick_vocab_size(text.report.bytes, hardware.device) if start is None else start.model.vocab_size
        draft, _ = resolve(sourced, hardware, text.report.bytes, rough_tokens, vocab_size)
        if start is not None:
            start.check(draft)
        given = _given_tokenizer(draft.tokenizer) if start is None else start.run.tokenizer()
        settings = reading_settings(data.field, data.max_bytes) | token_settings(draft, given)
        now = Preparation(sources=text.stamps, settings=settings, report=text.report, counts=text.counts)
        if before is not None:
            changes += before.changes(now)
            now = now if changes else before
        run = run or held.enter_context(claimed(target))
        for change in _first(changes):
            notify(f"{change}: preparing anew")
        if changes:
            remove_journal(run.data_folder)
        elif before is not None:
            notify("going on where preparing stood")
        now.save(target)
        tokenizer = _finished_tokenizer(run, now)
        if tokenizer is None:
            tokenizer = (given or make_tokenizer(text, draft.tokenizer, progress)).with_bos()
            text.check_unchanged()
            tokenizer.save(run.tokenizer_file)
            now = replace(now, tokenizer=tokenizer.fingerprint)
            now.save(target)
        corpora = _encode(run, text, tokenizer, now, progress, notify)
        vocabulary = _rows(tokenizer, never_predicted(tokenizer, corpora.train, draft.data.packing), start)
        config, origin = resolve(sourced, hardware, text.report.bytes, corpora.train.tokens, *vocabulary)
        config = tuned(config, origin, notify)
        run.write_environment()
        forget_start(run.path)
        if start is not None:
            start.save(run)
        run.write_config(config)
        forget_preparation(target)
        remove_journal(run.data_folder)
    return Prepared(run, text, tokenizer, corpora)


def _rows(tokenizer: Tokenizer, silent: int, start: Start | None) -> tuple[int, int]:
    """The table's rows, and those at its end without a logit; of weights to start with, none loses the one it has."""
    if start is None:
        return tokenizer.get_vocab_size(), silent
    # A table that came from elsewhere may have more rows than its tokenizer has tokens.
    rows = start.model.vocab_size
    return rows, min(silent + rows - tokenizer.get_vocab_size(), start.model.unpredicted_rows)


def _pinned(sources: Sequence[str], asked: list[Layer]) -> tuple[list[str], list[Layer]]:
    """The sources, those of the hub at the commit that they have now, which the settings keep."""
    pins = [pin(path) for path in sources]
    return pins, asked if pins == list(sources) else [*asked, Layer("the hub", {"data": {"sources": pins}})]


def known_first(asked: list[Layer]) -> tuple[DataConfig, Hardware]:
    """The text and the machine that partial settings name: sizes are picked for them."""
    values = layers.typed(layers.merge(asked)[0])
    training = values.get("training", {})
    hardware = choose_hardware(training.get("device", "auto"), training.get("precision", "auto"))
    return DataConfig(**values.get("data", {})), hardware


def read_text(
    paths: Sequence[str],
    field: str,
    progress: Progress | None = None,
    before: Preparation | None = None,
    max_bytes: int | None = None,
) -> Text:
    """Find sources and read them through, unless an earlier preparation has; UserError for what can't be read."""
    report = ReadReport()
    sources = find(paths, report=report)
    found = stamps(sources)
    if before is not None and before.has_read(found, field, max_bytes):
        report = replace(before.report, skipped_files=report.skipped_files)
        return Text(sources, field, max_bytes, report, found, before.counts)
    counts: list[int] = []
    total = sum(one.bytes for one in found)
    source = text_before = told = end = 0
    for document in read(sources, field=field, report=report, counts=counts, max_bytes=max_bytes):
        if len(counts) > source:
            source, text_before = len(counts), report.bytes - byte_length(document.text)
        if progress and report.bytes - told > _STEP_BYTES:
            told = report.bytes
            packed = 1 if sources[source].compression is None else _PACKED
            within = min(round((told - text_before) * packed), found[source].bytes)
            done, end = _nearer_end(report.file_bytes + within, total, told, max_bytes)
            progress("reading the text", done, end)
    if progress and told:
        progress("reading the text", end, end)
    return Text(sources, field, max_bytes, report, found, tuple(counts))


def _nearer_end(read: int, files: int, text: int, most: int | None) -> tuple[int, int]:
    """How much is done of how much: of the files, or of the text that is wanted, whichever ends the reading."""
    return (text, most) if most is not None and text * files > read * most else (read, files)


def make_tokenizer(text: Text, config: TokenizerConfig, progress: Progress | None = None) -> Tokenizer:
    """The tokenizer of config.file, or one trained on the text."""
    if config.file is not None:
        return Tokenizer.load(config.file)
    documents = text.documents("training the tokenizer", progress)
    return Tokenizer.train(documents, vocab_size=config.vocab_size, kind=config.kind)


def resolve(
    asked: list[Layer],
    hardware: Hardware,
    text_bytes: int,
    train_tokens: int,
    vocab_size: int,
    unpredicted_rows: int = 0,
) -> tuple[RunConfig, dict[str, str]]:
    """The config of a run and where each setting comes from; what nobody asked for is picked."""
    found = [
        Layer("picked for this text", {"tokenizer": {"vocab_size": pick_vocab_size(text_bytes, hardware.device)}}),
        pick_sizes(train_tokens, vocab_size, hardware, layers.typed(layers.merge(asked)[0])),
        *asked,
        hardware_layer(hardware, asked),
        vocabulary_layer(vocab_size, unpredicted_rows),
    ]
    values, origin = layers.merge(found)
    training = values["training"]
    rows, micro_rows = training.get("batch_size"), training.get("micro_batch_size")
    together = origin.get("training.batch_size") == origin.get("training.micro_batch_size")
    if isinstance(rows, int) and isinstance(micro_rows, int) and not together:
        # A preset's micro-batch gives way to a batch that was asked for.
        training["micro_batch_size"] = math.gcd(rows, micro_rows)
    return layers.build(values), origin


def _given_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer of config.file, if there is to be one; UserError for settings that no tokenizer fits."""
    if config.file is not None:
        return Tokenizer.load(config.file)
    Tokenizer.train(["a"], vocab_size=config.vocab_size, kind=config.kind)
    return None


def _finished_tokenizer(run: Run, noted: Preparation) -> Tokenizer | None:
    """The run's tokenizer, if it is the one that the preparation made."""
    if noted.tokenizer is None or not run.tokenizer_file.exists():
        return None
    try:
        found = Tokenizer.load(run.tokenizer_file)
    except UserError:
        return None
    return found if found.fingerprint == noted.tokenizer else None


def _encode(
    run: Run, text: Text, tokenizer: Tokenizer, noted: Preparation, progress: Progress | None, notify: Notify
) -> Corpora:
    """The run's shards."""
    total = text.report.bytes
    corpora = resume_shards(
        text.documents_from,
        tokenizer,
        run.data_folder,
        key=noted.key,
        validation_fraction=noted.settings["data.validation_fraction"],
        seed=noted.settings["training.seed"],
        progress=(lambda done: progress("encoding the text", done, total)) if progress else None,
        resumed=lambda done: notify(f"{_of(done, total)} are encoded already"),
    )
    tokenizer.engine.forget()
    text.check_unchanged()
    return corpora


def _of(done: int, total: int) -> str:
    unit, name = (1e6, "MB") if total >= 1e6 else (1e3, "kB")
    digits = 0 if total >= 10 * unit else 1
    return f"{done / unit:.{digits}f} of {total / unit:.{digits}f} {name}"


def _first(lines: list[str]) -> list[str]:
    """The first few of many lines, and how many more there are."""
    more = len(lines) - _CHANGES_TOLD
    return lines if more <= 1 else [*lines[:_CHANGES_TOLD], f"{more} more changes"]
