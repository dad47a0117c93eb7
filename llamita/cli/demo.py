"""`llamita demo`: from words to vectors to a model that tells stories, on a corpus with a known optimum."""

import json as json_module
import shutil
import time
from pathlib import Path

import torch
from rich.console import Console

from llamita.cli.console import live_line, narrator, print_json
from llamita.cli.settings import Settings
from llamita.cli.stopping import Stopping
from llamita.cli.train import show
from llamita.errors import UsageError
from llamita.generation.engine import generate
from llamita.generation.sampling import Sampling
from llamita.insight.neighbours import nearest
from llamita.model.transformer import LLaMaTransformer
from llamita.observatory.plots import plot_losses
from llamita.observatory.summary import summarize
from llamita.runs.folder import Run, write_text
from llamita.text.tokenizer import Tokenizer
from llamita.training.session import Evaluated, Session
from llamita.training.stories import PreparedStories, prepare_stories, story_config

_SENTENCE = "the king loves his dog ."
_ASKED_ABOUT = ("king", "queen", "puppy", "crown", "rules")
_SHOWN_VALUES = 6


def demo(run: Path = Path("runs/demo"), *, settings: Settings = Settings(), json: bool = False) -> None:
    """Train on the built-in corpus and see text become tokens, vectors and stories.

    A run that an earlier demo left in the folder is replaced.

    Parameters
    ----------
    run
        The run's folder.
    json
        Print one JSON object at the end instead of words.
    """
    console = narrator(json)
    # Settings that don't fit are told before an earlier demo is removed.
    story_config(settings.asked())
    _clear(run)
    begun = time.perf_counter()
    prepared = prepare_stories(run, settings.asked())
    session = Session(prepared.run)
    _show_text(prepared, console)
    _show_vectors(session, console)
    before = _neighbours(session.model, prepared)
    train_begun = time.perf_counter()
    stopping = _train(prepared, session, console)
    seconds = time.perf_counter() - train_begun
    plot_losses(prepared.run, prepared.floor)
    if stopping and session.state.step < session.config.training.steps:
        console.print(f"stopped and saved; go on with: llamita resume {run}")
        raise SystemExit(stopping.exit_code)
    after = _neighbours(session.model, prepared)
    _show_neighbours(before, after, console)
    _show_stories(session, console)
    report = _report(prepared, seconds, time.perf_counter() - begun, before, after)
    write_text(run / "report.json", json_module.dumps(report, indent=2) + "\n")
    if json:
        print_json(report)
    else:
        _say_what_next(run, report, console)


def _clear(folder: Path) -> None:
    if (folder / "config.toml").exists():
        if Run.open(folder).config().data.sources != ("storyworld",):
            raise UsageError(f"{folder} holds a run that isn't the demo's; choose another --run")
        shutil.rmtree(folder)


def _show_text(prepared: PreparedStories, console: Console) -> None:
    tokenizer, corpora = prepared.tokenizer, prepared.corpora
    (story,) = prepared.world.stories(1, seed=7)
    console.rule("1. Text to tokens", style="dim")
    console.print(
        f"StoryWorld tells stories by a grammar whose chances are known exactly. One of them:\n  {story.text}"
    )
    ids = tokenizer.encode(_SENTENCE)
    console.print(f'\n"{_SENTENCE}" as tokens and ids:')
    console.print("  " + "  ".join(f"{word} {number}" for word, number in zip(tokenizer.tokens(ids), ids, strict=True)))
    console.print(
        f"  the vocabulary has {tokenizer.get_vocab_size()} entries; the corpus {corpora.train.documents:,} stories, "
        f"{corpora.train.tokens:,} tokens"
    )


def _show_vectors(session: Session, console: Console) -> None:
    tokenizer, model = session.tokenizer, session.model
    ids = tokenizer.encode(_SENTENCE)
    tokens = torch.tensor(ids, device=model.embeddings.weight.device)
    console.print()
    console.rule("2. Tokens to vectors", style="dim")
    table = model.embeddings.weight
    console.print(f"The table has the shape (vocab_size, n_embd) = {tuple(table.shape)}; its rows are random still:")
    with torch.no_grad():
        for word, number in zip(tokenizer.tokens(ids), ids, strict=True):
            values = " ".join(f"{value:7.4f}" for value in table[number, :_SHOWN_VALUES].tolist())
            console.print(f"  row {number:>3}  {word:8} [{values}  ...]", markup=False)
        one, many = model.embed(tokens), model.embed(tokens.unsqueeze(0))
    scale = model.embeddings.scale
    console.print(
        f"A lookup takes rows{'' if scale == 1 else f' (times {scale:g})'}: (seq_len,) {tuple(tokens.shape)} -> "
        f"{tuple(one.shape)}; with its batch dimension (batch, seq_len) {tuple(tokens.unsqueeze(0).shape)} -> "
        f"(batch, seq_len, n_embd) {tuple(many.shape)}"
    )
    reader = "the same table" if session.config.model.tie_embeddings else "another table"
    console.print(f"That goes through the decoder blocks; {reader} reads the next token out of what they say.")


def _train(prepared: PreparedStories, session: Session, console: Console) -> Stopping:
    console.print()
    console.rule("3. Training", style="dim")
    config, model = session.config, session.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"{parameters:,} parameters, {config.training.steps} steps of {config.tokens_per_step:,} tokens, "
        f"{config.training.device} in {config.training.precision}. No model can have a lower loss than the entropy "
        f"of the stories: {prepared.floor:.4f} nats a token."
    )
    with Stopping(console) as stopping, live_line(console) as line:
        for event in session.events(stopping):
            if isinstance(event, Evaluated):
                loss = event.evaluation.loss
                line.say(f"step {event.step}: validation loss {loss:.4f}, {loss - prepared.floor:.4f} above the floor")
            else:
                show(event, config, line)
    return stopping


def _neighbours(model: LLaMaTransformer, prepared: PreparedStories) -> dict[str, list[str]]:
    tokenizer: Tokenizer = prepared.tokenizer
    found = {}
    for word in _ASKED_ABOUT:
        number = tokenizer.token_to_id(word)
        assert number is not None
        near = nearest(model.embeddings.weight.detach(), number, 5, exclude=tokenizer.special_ids)
        found[word] = tokenizer.tokens([index for index, _ in near])
    return found


def _show_neighbours(before: dict[str, list[str]], after: dict[str, list[str]], console: Console) -> None:
    console.print()
    console.rule("4. What the table has learnt: nearest rows by cosine", style="dim")
    for word in before:
        console.print(f"  {word:6} before: {', '.join(before[word]):52} after: {', '.join(after[word])}")


def _show_stories(session: Session, console: Console) -> None:
    console.print()
    console.rule("5. Stories that it tells", style="dim")
    sampling = Sampling(temperature=0.9, top_p=0.95)
    for made in generate(session.model, session.tokenizer, "once", max_new_tokens=60, sampling=sampling, samples=3):
        console.print(f"  once{made.text}", markup=False)


def _report(
    prepared: PreparedStories, seconds: float, total: float, before: dict[str, list[str]], after: dict[str, list[str]]
) -> dict[str, object]:
    summary = summarize(prepared.run)
    loss = prepared.run.checkpoint("latest").val_loss
    return {
        "val_loss": loss,
        "floor": prepared.floor,
        "gap": None if loss is None else loss - prepared.floor,
        "seconds": seconds,
        "total_seconds": total,
        "parameters": summary.parameters,
        "tokens": summary.tokens,
        "neighbours": {word: {"before": before[word], "after": after[word]} for word in before},
    }


def _say_what_next(run: Path, report: dict[str, object], console: Console) -> None:
    console.print()
    console.print(
        f"Gap to the floor: {report['gap']:.4f} nats, after {report['seconds']:.0f} s of training; "
        f"losses drawn in {run / 'loss.png'}, figures in {run / 'report.json'}"
    )
    console.print("What to type next:", markup=False)
    for command in (
        f'llamita generate {run} "once there was a queen"',
        f"llamita info {run}",
        "llamita train book.txt          # your own text",
    ):
        console.print(f"  {command}", markup=False)
