"""`llamita train` and `llamita resume`."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from llamita import layers
from llamita.cli.console import Line, count, duration, live_line, narrator, print_json
from llamita.cli.settings import Settings
from llamita.cli.sources import SourceName
from llamita.cli.stopping import Stopping
from llamita.config import RunConfig
from llamita.errors import UsageError
from llamita.layers import Layer
from llamita.observatory.plots import plot_losses
from llamita.observatory.summary import Summary, summarize
from llamita.runs.folder import Run
from llamita.training.compiling import why_not_compiled
from llamita.training.hardware import choose_hardware
from llamita.training.loop import StepMetrics
from llamita.training.plan import make_plan
from llamita.training.prepare import Prepared, prepare_run
from llamita.training.schedule import lr_multiplier
from llamita.training.session import Evaluated, Event, NotSaved, Sampled, Saved, Session


def train(
    *sources: SourceName,
    run: Path | None = None,
    tokenizer: Annotated[Path | None, Parameter(name="--tokenizer")] = None,
    settings: Settings = Settings(),
    json: bool = False,
) -> None:
    """Train a model on your own text: tokenizer, token shards, training, checkpoints.

    Sizes that you don't give are picked for the text and the machine. Example:
    llamita train book.txt --training.steps 500

    Parameters
    ----------
    sources
        Text files, folders, globs or - for standard input: .txt .md .jsonl .parquet, each also .gz or .zst.
    run
        The run's folder; default: runs/ and the name of the first source.
    tokenizer
        A tokenizer.json to use instead of training one.
    json
        Print one JSON object at the end instead of words.
    """
    console = narrator(json)
    target = run or Path("runs") / _default_name(sources)
    if (target / "config.toml").exists():
        raise UsageError(f"{target} holds a run already; go on with it: llamita resume {target}, or choose --run")
    asked = settings.asked()
    if tokenizer is not None:
        asked.append(Layer("command line", {"tokenizer": {"file": str(tokenizer)}}))
    with live_line(console) as line:
        prepared = prepare_run(
            target,
            sources,
            asked,
            lambda doing, done, total: line.show(f"{doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", done, total),
        )
    _describe_text(prepared, console)
    train_session(Session(prepared.run), console, as_json=json)


def resume(run: Path, *, settings: Settings = Settings(), json: bool = False) -> None:
    """Go on with a run from its newest checkpoint; without one it starts over.

    Parameters
    ----------
    run
        The run's folder.
    json
        Print one JSON object at the end instead of words.
    """
    console = narrator(json)
    opened = Run.open(run)
    before = opened.config()
    config = _changed(opened, settings)
    found = opened.checkpoints()
    step = found[-1].step if found else 0
    if found and step >= config.training.steps:
        console.print(
            f"{run} is finished: {step} of {config.training.steps} steps. "
            f"For more: llamita resume {run} --training.steps {2 * max(step, config.training.steps)}"
        )
        if json:
            print_json(summarize(opened))
        return
    console.print(f"going on from step {step}" if found else f"{run} has no checkpoint yet: starting over")
    if found and config.training.steps != before.training.steps:
        _announce_stretch(before, config, step, console)
    session = Session(opened, config)
    train_session(session, console, as_json=json)


def train_session(session: Session, console: Console, *, as_json: bool) -> None:
    """Train a session to its end and tell how it goes and what came of it."""
    run = session.run
    reason = why_not_compiled(session.config.training.device) if session.config.training.compile else None
    if reason:
        console.print(f"training without torch.compile: {reason}")
    _describe_run(session, console)
    with Stopping(console) as stopping:
        watch(session.events(stopping), session.config, console)
    plot_losses(run)
    if session.state.step < session.config.training.steps:
        console.print(f"stopped and saved; go on with: llamita resume {run.path}")
        raise SystemExit(stopping.exit_code)
    result = summarize(run)
    if as_json:
        print_json(result)
    else:
        _describe_result(run, result, console)


def watch(events: Iterable[Event], config: RunConfig, console: Console) -> None:
    """Show events as they come: one live line, and lines that stay for evaluations."""
    with live_line(console) as line:
        for event in events:
            show(event, config, line)


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
    elif isinstance(event, NotSaved):
        line.say(f"warning: step {event.step} isn't saved: {event.reason}; going on, and trying again", style="yellow")
    elif isinstance(event, Saved) and event.stopped:
        line.say(f"saved {event.checkpoint.path}")


def _default_name(sources: tuple[str, ...]) -> str:
    first = Path(sources[0]).name.split(".")[0] if sources else ""
    return first if first.strip("-*?[]") else "text"


def _changed(run: Run, settings: Settings) -> RunConfig:
    """A run's config with what may change on resuming."""
    _, origin = layers.merge(settings.asked())
    for name in origin:
        # Another seed would be another order of the data, in which the run's position means nothing.
        if not name.startswith("training.") or name == "training.seed":
            raise UsageError(
                f"--{name}: a resumed run keeps what it began with; only training.* but the seed may change"
            )
    values, _ = layers.merge([layers.from_file(run.config_file), *settings.asked()])
    config = layers.build(values)
    hardware = choose_hardware(config.training.device, config.training.precision)
    return replace(config, training=replace(config.training, device=hardware.device, precision=hardware.precision))


def _announce_stretch(before: RunConfig, after: RunConfig, step: int, console: Console) -> None:
    rates = [
        config.optimizer.lr * lr_multiplier(step, config.training.steps, config.optimizer) for config in (before, after)
    ]
    console.print(
        f"{after.training.steps} steps instead of {before.training.steps}: the {after.optimizer.schedule} schedule "
        f"is stretched from here; learning rate {rates[0]:.2e} -> {rates[1]:.2e}"
    )


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
    console.print(f'next: llamita generate {run.path} "Once" ; llamita info {run.path}', markup=False)
