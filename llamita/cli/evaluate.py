"""`llamita eval`: how well a run's model predicts texts, and what it answers."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from llamita.cli.console import aligned, escaped, narrator, print_json
from llamita.cli.sources import SourceName, check_max_bytes
from llamita.cli.stopping import Stopping, same_command
from llamita.config import DataConfig, DeviceName, Precision
from llamita.errors import UsageError, UserError, command_line
from llamita.runs.folder import Run
from llamita.tasks.scoring import TASKS, TaskScore, score
from llamita.text.frequency import COUNTED_TOKENS
from llamita.text.shards import Corpus, open_corpora, write_shards
from llamita.text.sources import Document, find, read
from llamita.training.evaluate import Band, Evaluation, evaluate
from llamita.training.hardware import Hardware, autocast, choose_hardware, scoring_precision

_ALL = "all"


def eval(
    run: Path,
    *sources: SourceName,
    tasks: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    field: str = "text",
    max_bytes: int | None = None,
    checkpoint: str = "best",
    device: DeviceName = "auto",
    precision: Precision = "auto",
    json: bool = False,
) -> None:
    """Measure a run's model: its loss on any text, in nats a token and bits per byte; what it gets right in tasks.

    Parameters
    ----------
    run
        The run's folder.
    sources
        Text files, folders, globs, datasets of the hub, or - for standard input.
    tasks
        storyworld_agreement, analogies, analogies_english, cloze, or all of them; with llamita[eval] also tasks of
        lm-evaluation-harness by name, YAML file or folder of such files. Several by commas.
    field
        Where the text is in jsonl and parquet.
    max_bytes
        Read no more text than this.
    checkpoint
        best, latest, initial or a step.
    precision
        For tasks fp32 on a CPU unless asked for; else what the machine computes fast.
    json
        Print one JSON object.
    """
    names = _task_names(tasks)
    if not sources and not names:
        raise UsageError(
            f"no text and no task to measure; for example: {command_line('eval', run, 'other.txt')}, "
            f"or {command_line('eval', run, '--tasks', _ALL)}"
        )
    check_max_bytes(max_bytes)
    hardware = choose_hardware(device, precision)
    opened = Run.open(run)
    torch.set_num_threads(hardware.threads)
    found: dict[str, Any] = {}
    with Stopping(narrator(json), same_command()):
        # Tasks first: a misspelt name is told before texts are read.
        answered = _answers(opened, names, checkpoint, hardware, precision)
        if sources:
            trained_on = _training_corpus(opened)
            documents = read(find(sources), field=field, max_bytes=max_bytes)
            result = _loss(opened, documents, checkpoint, hardware, trained_on)
            found = {**asdict(result), "perplexity": result.perplexity}
            if not json:
                _print_loss(result, opened.tokenizer().kind, trained_on)
    if json:
        plain = {name: asdict(row) if isinstance(row, TaskScore) else row for name, row in answered.items()}
        print_json({**found, "tasks": plain} if names else found)
    else:
        _print_answers(answered)


def _task_names(asked: Sequence[str]) -> list[str]:
    """Names of tasks, each once; "all" stands for ours."""
    names = [part.strip() for word in asked for part in word.split(",") if part.strip()]
    if asked and not names:
        raise UsageError(f"--tasks: no name given; there are {', '.join(TASKS)}, {_ALL}")
    return list(dict.fromkeys(one for name in names for one in (TASKS if name == _ALL else [name])))


def _answers(
    run: Run, names: Sequence[str], checkpoint: str, hardware: Hardware, precision: Precision
) -> dict[str, TaskScore | dict[str, Any]]:
    """Scores of our tasks, then what lm_eval says of others."""
    ours, foreign = [name for name in names if name in TASKS], [name for name in names if name not in TASKS]
    # Looked for rather than imported, which takes seconds.
    if foreign and find_spec("lm_eval") is None:
        raise UserError(
            f"--tasks {','.join(foreign)}: ours are {', '.join(TASKS)}, {_ALL}; "
            "others need lm-evaluation-harness: pip install 'llamita[eval]'"
        )
    found: dict[str, TaskScore | dict[str, Any]] = {}
    if ours:
        model, tokenizer = run.model(checkpoint, hardware.device), run.tokenizer()
        with autocast(hardware.device, scoring_precision(hardware, precision)):
            found |= {name: score(model, tokenizer, TASKS[name]()) for name in ours}
    if foreign:
        from llamita.interop.lm_eval import LlamitaLM, evaluate_tasks

        lm = LlamitaLM(run.path, checkpoint=checkpoint, device=hardware.device, precision=precision)
        found |= evaluate_tasks(lm, foreign)
    return found


def _loss(
    run: Run,
    documents: Iterable[Document],
    checkpoint: str,
    hardware: Hardware,
    trained_on: Corpus | UserError,
) -> Evaluation:
    model, tokenizer, config = run.model(checkpoint, hardware.device), run.tokenizer(), run.config()
    counts = trained_on.token_counts if isinstance(trained_on, Corpus) else None
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_shards(documents, tokenizer, Path(folder)).train
        data = DataConfig(packing=config.data.packing, mask_documents=config.data.mask_documents)
        return evaluate(
            model, corpus, precision=hardware.precision, data=data, lossless=tokenizer.lossless, counts=counts
        )


def _print_loss(result: Evaluation, tokenizer_kind: str, trained_on: Corpus | UserError) -> None:
    per_byte = (
        f"{result.bits_per_byte:.4f} bits per byte"
        if result.bits_per_byte is not None
        else f"no bits per byte: the {tokenizer_kind} tokenizer loses text that it doesn't know"
    )
    size = f"{result.tokens} tokens, {result.bytes} bytes"
    print(f"loss {result.loss:.4f} nats a token over {size}; {per_byte}; perplexity {result.perplexity:.2f}")
    if result.left_out:
        print(f"left out: {result.left_out} tokens that the model has no logit of: in its text they follow nothing")
    print("by how many tokens of its text the model had before it:")
    for band in result.contexts:
        _print_band(f"{band.least:,} to {2 * band.least - 1:,}" if band.least > 1 else "1", band, result)
    if not isinstance(trained_on, Corpus):
        print(f"no loss by frequency: {trained_on}")
        return
    part = " in its first billion tokens" if trained_on.tokens > COUNTED_TOKENS else ""
    print(f"by how often the training text has{part} the token that was to be predicted:")
    for band in result.bands:
        times = "never" if band.least == 0 else f"{band.least:,} to {10 * band.least - 1:,} times"
        _print_band(times, band, result)


def _print_band(name: str, band: Band, result: Evaluation) -> None:
    print(f"  {name:>26}: {band.loss:8.4f} nats, {band.tokens / result.tokens:7.2%} of the tokens")


def _print_answers(answered: Mapping[str, TaskScore | Mapping[str, Any]]) -> None:
    ours = {name: row for name, row in answered.items() if isinstance(row, TaskScore)}
    rows = [["", "acc", "", "acc_norm", "", "chance", "items"]]
    for name, row in ours.items():
        accuracies = (row.acc, row.acc_stderr), (row.acc_norm, row.acc_norm_stderr)
        shown = [cell for value, error in accuracies for cell in (f"{value:.4f}", f"± {error:.4f}")]
        rows.append([name, *shown, f"{row.chance:.4f}", str(row.items)])
        rows += [[f"  {family}", f"{acc:.4f}", *[""] * 5] for family, acc in row.families.items()]
    for line in aligned(rows) if ours else ():
        print(line)
    for name, row in ours.items():
        if row.unknown:
            print(f"{name}: the tokenizer doesn't know each word of {row.unknown} of {row.items} items")
    for name, figures in answered.items():
        if not isinstance(figures, TaskScore):
            told = ", ".join(f"{escaped(metric)} {_shown(value)}" for metric, value in figures.items())
            print(f"{escaped(name)}: {told}")


def _shown(figure: Any) -> str:
    return f"{figure:.4f}" if isinstance(figure, float) else escaped(str(figure))


def _training_corpus(run: Run) -> Corpus | UserError:
    """What the run was trained on, or why that isn't there any more."""
    try:
        return open_corpora(run.data_folder, run.tokenizer()).train
    except UserError as error:
        return error
