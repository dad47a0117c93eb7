"""`llamita train`, and what `llamita resume` shares with it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter
from rich.console import Console

from llamita import layers
from llamita.cli.console import Line, count, duration, escaped, live_line, narrator, print_json
from llamita.cli.settings import Settings
from llamita.cli.sources import SourceName
from llamita.cli.stopping import Stopping, same_command
from llamita.config import RunConfig, TrackingConfig
from llamita.errors import UsageError, UserError, command_line
from llamita.layers import Layer
from llamita.observatory.plots import plot_losses
from llamita.observatory.summary import Summary, summarize
from llamita.runs.folder import Run
from llamita.text.hub_address import dataset_name
from llamita.tracking.tracked import check_trackers, tracked
from llamita.training.compiling import keep_graphs, why_not_compiled
from llamita.training.events import Abandoned, Evaluated, Event, NotSaved, Rewound, Sampled, Saved, StepsSkipped
from llamita.training.hardware import choose_hardware
from llamita.training.loop import StepMetrics
from llamita.training.plan import make_plan
from llamita.training.preflight import Preflight
from llamita.training.prepare import Prepared, prepare_run
from llamita.training.session import Session
from llamita.training.start import Start
from llamita.training.tuning import micro_batches

_STEPS_TOLD = 5


def train(
    *sources: SourceName,
    run: Path | None = None,
    tokenizer: Annotated[Path | None, Parameter(name="--tokenizer")] = None,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    checkpoint: str | None = None,
    settings: Settings = Settings(),
    json: bool = False,
) -> None:
    """Train a model on your own text: tokenizer, token shards, training, checkpoints.

    Sizes that you don't give are picked for the text and the machine. Example:
    llamita train book.txt --training.steps 500

    Parameters
    ----------
    sources
        Text files, folders, globs or - for standard input: .txt .md .jsonl .parquet, each also .gz or .zst; datasets
        of the hub: OWNER/NAME, or hf://datasets/OWNER/NAME@REVISION/PATH, or ?config=CONFIG&split=SPLIT behind it.
    run
        The run's folder; default: runs/ and the name of the first source.
    tokenizer
        A tokenizer.json to use instead of training one.
    start
        A run, one that was imported say, whose weights, tokenizer and model training begins with.
    checkpoint
        best, latest or a step of that run; default: best.
    json
        Print one JSON object at the end instead of words.
    """
    console, started = narrator(json), time.monotonic()
    target = run or Path("runs") / _default_name(sources)
    if os.path.exists(target / "config.toml"):
        raise UsageError(
            f"{target} holds a run already; go on with it: {command_line('resume', target)}, or choose --run"
        )
    asked = settings.asked()
    if checkpoint is not None and start is None:
        raise UsageError(f"--checkpoint {checkpoint}: of which run? Name it with --from")
    if tokenizer is not None and start is not None:
        raise UsageError(f"--tokenizer: the weights of {start} have a tokenizer of their own; leave one of them out")
    if tokenizer is not None:
        asked.append(Layer("command line", {"tokenizer": {"file": str(tokenizer)}}))
    check_trackers(TrackingConfig(**layers.typed(layers.merge(asked)[0]).get("tracking", {})))
    with Stopping(console, same_command()) as stopping:
        with live_line(console) as line:
            prepared = prepare_run(
                target,
                sources,
                asked,
                lambda doing, done, total: line.show(f"{doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", done, total),
                line.say,
                None if start is None else Start.of(start, checkpoint or "best"),
            )
        stopping.go_on = command_line("resume", target)
        _describe_text(prepared, console)
        train_session(Session(prepared.run, started=started), stopping, console, as_json=json)


def train_session(session: Session, stopping: Stopping, console: Console, *, as_json: bool) -> None:
    """Train a session to its end, or as far as a signal lets it, and tell how it goes and what came of it."""
    run = session.run
    training = session.config.training
    reason = why_not_compiled(training.device, training.recompute_layers) if training.compile else None
    if reason:
        console.print(f"training without torch.compile: {reason}")
    elif training.compile:
        folder = keep_graphs()
        kept = "" if folder is None else f"; graphs are kept in {folder} for the next time"
        console.print(f"compiling at the first step{kept}")
    _describe_run(session, console)
    with stopping.finishing():
        stopping.go_on = command_line("resume", run.path)
        watch(session, stopping, console)
    plot_losses(run)
    if session.state.step < session.config.training.steps:
        console.print(f"stopped and saved; go on with: {stopping.go_on}", markup=False)
        raise SystemExit(stopping.exit_code)
    result = summarize(run)
    if as_json:
        print_json(result)
    else:
        _describe_result(run, result, console)


def watch(session: Session, stopping: Stopping, console: Console) -> None:
    """Train, and show events as they come: one live line, and lines that stay for evaluations."""
    try:
        with live_line(console) as line:
            for event in tracked(session.events(stopping), session, line.say):
                show(event, session.config, line)
    except torch.OutOfMemoryError as error:
        raise UserError(_less_memory(session)) from error


def _less_memory(session: Session) -> str:
    """What to do where a run needs more memory than there is."""
    model, training = session.config.model, session.config.training
    rows = [n for n in micro_batches(session.config) if n <= training.micro_batch_size // 2]
    told = f"{training.device} has too little memory, at {training.micro_batch_size} rows of {model.max_seq_len} tokens"
    if rows:
        change: tuple[str, int] = "--training.micro-batch-size", rows[-1]
    elif training.recompute_layers < model.n_layers:
        change = "--training.recompute-layers", model.n_layers
    else:
        return f"{told}; a smaller model takes less"
    return f"{told}; what is saved is safe. With less: {command_line('resume', session.run.path, *change)}"


def show(event: Event, config: RunConfig, line: Line) -> None:
    """Show one event."""
    if isinstance(event, StepMetrics):
        left = (config.training.steps - event.step) * config.tokens_per_step / max(event.tokens_per_second, 1e-9)
        line.show(
            f"step {event.step}/{config.training.steps}  loss {event.loss:.3f}  lr {event.lr:.1e}  "
            f"{count(event.tokens_per_second)} tok/s  {duration(left)} left",
            event.step,
            config.training.steps,
        )
    elif isinstance(event, Evaluated):
        result = event.evaluation
        per_byte = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.3f} bits per byte"
        line.say(f"step {event.step}: validation loss {result.loss:.4f} nats a token{per_byte}")
    elif isinstance(event, Sampled):
        line.say("  " + " ".join(event.text.split())[:160], style="dim")
    elif isinstance(event, Preflight):
        line.say(f"start: {event.summary()}")
    elif isinstance(event, Abandoned):
        line.say(f"moved to {event.paths[0].parent}: {', '.join(path.name for path in event.paths)}")
    elif isinstance(event, Saved) and event.stopped:
        line.say(f"saved {event.checkpoint.path}")
    for warning in _warnings(event):
        line.say(f"warning: {warning}", style="yellow")


def _warnings(event: Event) -> Sequence[str]:
    if isinstance(event, Preflight):
        return event.problems
    if isinstance(event, NotSaved):
        return [f"step {event.step} isn't saved: {event.reason}; going on, and trying again"]
    if isinstance(event, StepsSkipped):
        return [_skipped(event)]
    if isinstance(event, Rewound):
        return [
            f"{event.streak} steps in a row were skipped at step {event.from_step}: going back to step "
            f"{event.to_step}, and on with the data behind them"
        ]
    return []


def _skipped(event: StepsSkipped) -> str:
    last = event.skipped[-1]
    steps = ", ".join(str(one.step) for one in event.skipped[:_STEPS_TOLD])
    more = len(event.skipped) - _STEPS_TOLD
    told = "; ".join(f'{one.document} "{" ".join(escaped(one.text).split())[:40]}"' for one in event.documents)
    return (
        f"skipped step{'s' if len(event.skipped) > 1 else ''} {steps}{f' and {more} more' if more > 0 else ''}, the "
        f"last for this: {last.reason} (loss {last.loss:.4g}, gradient norm {last.grad_norm:.4g}); documents {told}"
    )


def _default_name(sources: tuple[str, ...]) -> str:
    dataset = dataset_name(sources[0]) if sources else None
    first = dataset or (Path(sources[0]).name.split(".")[0] if sources else "")
    return first if first.strip("-*?[]") else "text"


def _describe_text(prepared: Prepared, console: Console) -> None:
    report, tokenizer, corpora = prepared.text.report, prepared.tokenizer, prepared.corpora
    console.print(
        f"text: {report.documents} document{'s' if report.documents > 1 else ''}, {count(report.bytes)}B; "
        f"tokenizer: {tokenizer.kind}, {tokenizer.get_vocab_size()} entries, {corpora.train.tokens} training tokens"
    )
    for number, what in (
        (report.replaced, "bytes that weren't valid UTF-8 became U+FFFD"),
        (report.empty, "empty documents were left out"),
        (report.skipped_files, "files of other kinds were left out"),
    ):
        if number:
            console.print(f"  {number} {what}")
    if corpora.split == "tail":
        console.print("  few documents: the last part of the text is held out for validation, not whole documents")
    if corpora.validation is None:
        console.print("  nothing is held out for validation, so there will be no validation loss")


def _describe_run(session: Session, console: Console) -> None:
    config = session.config
    hardware = choose_hardware(config.training.device, config.training.precision)
    plan = make_plan(config, session.corpora.train.tokens)
    kinds = ", ".join(f"{name} {number:,}" for name, number in plan.parameters.items() if number)
    model = config.model
    console.print(f"run: {session.run.path}; on {hardware.description}, {config.training.precision}")
    console.print(
        f"model: {sum(plan.parameters.values()):,} parameters ({kinds}); n_embd {model.n_embd}, "
        f"{model.n_layers} layers, {model.n_heads} heads, {'tied' if model.tie_embeddings else 'untied'}"
    )
    left = config.training.steps - session.state.step
    console.print(
        f"training: {config.training.steps} steps of {plan.tokens_per_step:,} tokens"
        + (f" ({plan.epochs:.1f} epochs)" if plan.epochs else "")
        + f"; about {plan.memory_bytes / 2**20:,.0f} MiB, "
        f"{duration(plan.seconds * left / max(config.training.steps, 1))} to go"
    )
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _describe_result(run: Run, result: Summary, console: Console) -> None:
    figures = "" if result.val_loss is None else f", validation loss {result.val_loss:.4f}"
    if result.bits_per_byte is not None:
        figures += f", {result.bits_per_byte:.3f} bits per byte"
    console.print(f"done: {result.step} steps{figures}; losses drawn in {run.path / 'loss.png'}")
    commands = command_line("generate", run.path, "Once upon"), command_line("info", run.path)
    console.print(f"next: {' ; '.join(commands)}", markup=False)
