"""Raw text into a run folder: a tokenizer, token shards and a config in which every field has a value."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamita import layers
from llamita.config import DataConfig, RunConfig, TokenizerConfig
from llamita.errors import UsageError
from llamita.layers import Layer
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from llamita.text.shards import Corpora, byte_length, write_shards
from llamita.text.sources import ReadReport, Source, find, read
from llamita.text.tokenizer import Tokenizer
from llamita.training.hardware import Hardware, choose_hardware
from llamita.training.sizes import hardware_layer, pick_sizes, pick_vocab_size

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

_STEP_BYTES = 1 << 20
_ROUGH_BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Text:
    """Sources that were found and read once, so that their size is known."""

    sources: list[Source]
    field: str
    report: ReadReport

    def documents(self, doing: str, progress: Progress | None) -> Iterator[str]:
        """The text of each document."""
        done = reported = 0
        for document in read(self.sources, field=self.field):
            done += byte_length(document.text)
            if progress and done - reported > _STEP_BYTES:
                progress(doing, done, self.report.bytes)
                reported = done
            yield document.text


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run folder that is ready to train, and what went into it."""

    run: Run
    text: Text
    tokenizer: Tokenizer
    corpora: Corpora


def prepare_run(target: Path, sources: Sequence[str], asked: list[Layer], progress: Progress | None = None) -> Prepared:
    """Make a run folder of sources (none: those of the settings) and partial settings.

    config.toml comes last: a folder without it is no run yet, and preparing it again starts over. UserError for
    sources that can't be read and UsageError for settings that don't fit, before anything is written.
    """
    sourced = [*asked, Layer("command line", {"data": {"sources": list(sources)}} if sources else {})]
    data, hardware = known_first(sourced)
    if not data.sources:
        raise UsageError("no text to train on; for example: llamita train book.txt")
    text = read_text(data.sources, data.field)
    vocab_size = pick_vocab_size(text.report.bytes, hardware.device)
    rough_tokens = max(text.report.bytes // _ROUGH_BYTES_PER_TOKEN, 1)
    draft, _ = resolve(sourced, hardware, text.report.bytes, rough_tokens, vocab_size)
    tokenizer = make_tokenizer(text, draft.tokenizer, progress)
    run = Run.create(target)
    with writing(run.path):
        tokenizer.save(run.tokenizer_file)
        corpora = write_shards(
            read(text.sources, field=text.field),
            tokenizer,
            run.data_folder,
            validation_fraction=draft.data.validation_fraction,
            seed=draft.training.seed,
            progress=(lambda done: progress("encoding the text", done, text.report.bytes)) if progress else None,
        )
        size = tokenizer.get_vocab_size()
        config, _ = resolve(sourced, hardware, text.report.bytes, corpora.train.tokens, size)
        run.write_environment()
        run.write_config(config)
    return Prepared(run, text, tokenizer, corpora)


def known_first(asked: list[Layer]) -> tuple[DataConfig, Hardware]:
    """The text and the machine that partial settings name: sizes are picked for them."""
    values = layers.typed(layers.merge(asked)[0])
    training = values.get("training", {})
    hardware = choose_hardware(training.get("device", "auto"), training.get("precision", "auto"))
    return DataConfig(**values.get("data", {})), hardware


def read_text(paths: Sequence[str], field: str) -> Text:
    """Find sources and read them through; UserError for what can't be read."""
    report = ReadReport()
    sources = find(paths, report=report)
    for _ in read(sources, field=field, report=report):
        pass
    return Text(sources, field, report)


def make_tokenizer(text: Text, config: TokenizerConfig, progress: Progress | None = None) -> Tokenizer:
    """The tokenizer of config.file, or one trained on the text."""
    if config.file is not None:
        return Tokenizer.load(config.file)
    documents = text.documents("training the tokenizer", progress)
    return Tokenizer.train(documents, vocab_size=config.vocab_size, kind=config.kind)


def resolve(
    asked: list[Layer], hardware: Hardware, text_bytes: int, train_tokens: int, vocab_size: int
) -> tuple[RunConfig, dict[str, str]]:
    """The config of a run and where each setting comes from; what nobody asked for is picked."""
    found = [
        Layer("picked for this text", {"tokenizer": {"vocab_size": pick_vocab_size(text_bytes, hardware.device)}}),
        pick_sizes(train_tokens, vocab_size, hardware, layers.typed(layers.merge(asked)[0])),
        *asked,
        hardware_layer(hardware, asked),
        Layer("the tokenizer", {"model": {"vocab_size": vocab_size}}),
    ]
    values, origin = layers.merge(found)
    training = values["training"]
    rows, micro_rows = training.get("batch_size"), training.get("micro_batch_size")
    together = origin.get("training.batch_size") == origin.get("training.micro_batch_size")
    if isinstance(rows, int) and isinstance(micro_rows, int) and not together:
        # A preset's micro-batch gives way to a batch that was asked for.
        training["micro_batch_size"] = math.gcd(rows, micro_rows)
    return layers.build(values), origin
