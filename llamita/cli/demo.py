"""`llamita demo`: from words to vectors to a model that tells stories, on a corpus with a known optimum."""

import json as json_module
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from llamita.cli.console import live_line, narrator, print_json
from llamita.cli.probe import print_meaning
from llamita.cli.settings import Settings
from llamita.cli.stopping import Stopping, same_command
from llamita.cli.train import show
from llamita.cli.walkthrough import print_walkthrough
from llamita.errors import UsageError, command_line
from llamita.files import write_text
from llamita.generation.engine import generate
from llamita.generation.sampling import Sampling
from llamita.insight.directions import direction_of_pairs
from llamita.insight.vectors import Vectors
from llamita.insight.walkthrough import Walkthrough, walk_through
from llamita.observatory.lessons import Lessons, story_groups, story_lessons
from llamita.observatory.meaning import AnalogyReport, Meaning, ProbeReport, measure
from llamita.observatory.plots import plot_losses, plot_map
from llamita.observatory.summary import summarize
from llamita.runs.folder import Run
from llamita.runs.lock import LOCK, writing
from llamita.tracking.tracked import check_trackers, tracked
from llamita.training.events import Evaluated
from llamita.training.session import Session
from llamita.training.stories import PreparedStories, is_story_run, prepare_stories, story_config

_SENTENCE = "the king loves his dog ."
_ODD = ("king", "duke", "lamp", "monk")
_ASKED_ABOUT = ("king", "queen", "puppy", "crown", "rules")


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
    with Stopping(console, same_command()) as stopping:
        report = _demonstrate(run, settings, stopping, console)
        if json:
            print_json(report)
        else:
            _say_what_next(run, report, console)


def _demonstrate(run: Path, settings: Settings, stopping: Stopping, console: Console) -> dict[str, object]:
    """The whole road; gives what report.json says of it."""
    # Settings that don't fit are told before an earlier demo is removed.
    check_trackers(story_config(settings.asked()).tracking)
    _clear(run)
    begun = time.perf_counter()
    prepared = prepare_stories(run, settings.asked())
    stopping.go_on = command_line("resume", run)
    session = Session(prepared.run)
    before = session.model.embeddings.weight.detach().cpu().clone()
    _show_text(prepared, console)
    print_walkthrough(_walk(session, run), console, steps=range(1, 5))
    train_begun = time.perf_counter()
    _train(prepared, session, stopping, console)
    seconds = time.perf_counter() - train_begun
    plot_losses(prepared.run, prepared.floor)
    if session.state.step < session.config.training.steps:
        console.print(f"stopped and saved; go on with: {stopping.go_on}", markup=False)
        raise SystemExit(stopping.exit_code)
    stopping.go_on = command_line("probe", run)
    if stopping():
        console.print(f"stopped after training, all of it saved; go on with: {stopping.go_on}", markup=False)
        raise SystemExit(stopping.exit_code)
    after = session.model.embeddings.weight.detach().cpu()
    tables = {name: Vectors(table, prepared.tokenizer) for name, table in (("before", before), ("after", after))}
    lessons = story_lessons(prepared.world)
    spaces = {"before": before, "after": after}
    meaning = measure(prepared.tokenizer, lessons, spaces, corpus=prepared.corpora.train)
    neighbors = {word: {name: _nearest(table, word) for name, table in tables.items()} for word in _ASKED_ABOUT}
    _show_meaning(tables, neighbors, lessons, meaning, console)
    _draw(tables, prepared, console)
    print_walkthrough(_walk(session, run), console, steps=range(5, 7))
    _show_stories(session, console)
    report = _report(prepared, seconds, time.perf_counter() - begun, neighbors, meaning)
    write_text(run / "report.json", json_module.dumps(report, indent=2) + "\n")
    return report


def _clear(folder: Path) -> None:
    if os.path.exists(folder / "config.toml"):
        if not is_story_run(Run.open(folder).config()):
            raise UsageError(f"{folder} holds a run that isn't the demo's; choose another --run")
        with writing(folder):
            # config.toml goes last: until then this is a demo's run, which the next demo removes.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.toml"):
                if path.name == LOCK:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _show_text(prepared: PreparedStories, console: Console) -> None:
    (story,) = prepared.world.stories(1, seed=7)
    train = prepared.corpora.train
    console.print(
        f"StoryWorld tells stories by a grammar whose chances are known exactly. One of {train.documents:,}:\n"
        f"  {story.text}\n"
    )


def _walk(session: Session, run: Path) -> Walkthrough:
    session.model.eval()
    return walk_through(session.model, session.tokenizer, _SENTENCE, run=str(run), step=session.state.step)


def _train(prepared: PreparedStories, session: Session, stopping: Stopping, console: Console) -> None:
    console.print()
    console.rule("Training", style="dim")
    config, model = session.config, session.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"{parameters:,} parameters, {config.training.steps} steps of {config.tokens_per_step:,} tokens, "
        f"{config.training.device} in {config.training.precision}. No model can have a lower loss than the entropy "
        f"of the stories: {prepared.floor:.4f} nats a token."
    )
    with stopping.finishing(), live_line(console) as line:
        for event in tracked(session.events(stopping), session, line.say):
            if isinstance(event, Evaluated):
                loss = event.evaluation.loss
                line.say(f"step {event.step}: validation loss {loss:.4f}, {loss - prepared.floor:.4f} above the floor")
            else:
                show(event, config, line)


def _nearest(table: Vectors, word: str) -> list[str]:
    return [neighbor.token for neighbor in table.most_similar(word, topn=5)]


def _show_meaning(
    tables: dict[str, Vectors],
    neighbors: dict[str, dict[str, list[str]]],
    lessons: Lessons,
    meaning: Meaning,
    console: Console,
) -> None:
    console.print()
    console.rule("What the table has learnt", style="dim")
    console.print("Nearest rows by cosine:")
    for word, found in neighbors.items():
        console.print(f"  {word:6} before: {', '.join(found['before']):52} after: {', '.join(found['after'])}")
    console.print("\nman is to woman as king is to ...")
    for name, table in tables.items():
        answers = {
            "3CosAdd": table.analogy("man", "woman", "king", 3),
            "3CosMul": table.analogy("man", "woman", "king", 3, "3CosMul"),
            "control, nearest to king": table.most_similar("king", topn=3),
        }
        told = "; ".join(f"{kind}: {', '.join(one.token for one in found)}" for kind, found in answers.items())
        console.print(f"  {name:6} {told}")
    console.print("Which doesn't match: " + ", ".join(_ODD))
    console.print("  " + ", ".join(f"{name}: {table.doesnt_match(_ODD)}" for name, table in tables.items()) + "\n")
    print_meaning(meaning, console)
    console.print("\nThe direction from men to women:")
    pairs = [(words[0], words[1]) for words in lessons.analogies["gender"]]
    for name, table in tables.items():
        sides = [torch.stack([table.unit_vector(pair[end]) for pair in pairs]) for end in (0, 1)]
        gender = direction_of_pairs(sides[0], sides[1], pairs)
        console.print(
            f"  {name:6} holds for {gender.accuracy:.0%} of pairs that it wasn't made from; of random choices of sides "
            f"{gender.p_value:.1%} do as well"
        )
    for end, sign in (("men", -1), ("women", 1)):
        along = tables["after"].nearest(sign * gender.vector, 10)
        console.print(f"  furthest towards {end}: " + "  ".join(neighbor.token for neighbor in along))


def _draw(tables: dict[str, Vectors], prepared: PreparedStories, console: Console) -> None:
    groups = story_groups(prepared.world)
    points = [torch.stack([table.vector(word) for word in groups]) for table in tables.values()]
    files = [prepared.run.path / f"embeddings.{kind}" for kind in ("png", "svg")]
    plot_map(points[0], points[1], groups, *files)
    console.print(f"\nRows before and after in two dimensions: {files[0]} and .svg\n")


def _show_stories(session: Session, console: Console) -> None:
    console.print()
    console.rule("Stories that it tells", style="dim")
    sampling = Sampling(temperature=0.9, top_p=0.95)
    for made in generate(session.model, session.tokenizer, "once", max_new_tokens=60, sampling=sampling, samples=3):
        console.print(f"  once{made.text}", markup=False)


def _report(
    prepared: PreparedStories,
    seconds: float,
    total: float,
    neighbors: dict[str, dict[str, list[str]]],
    meaning: Meaning,
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
        "neighbors": neighbors,
        "analogies": {name: _figures(row) for name, row in meaning.analogies.items()},
        "probes": {name: _figures(row) for name, row in meaning.probes.items()},
    }


def _figures(row: AnalogyReport | ProbeReport) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if name != "spaces"}


def _say_what_next(run: Path, report: dict[str, object], console: Console) -> None:
    console.print()
    console.print(
        f"Gap to the floor: {report['gap']:.4f} nats, after {report['seconds']:.0f} s of training; "
        f"losses drawn in {run / 'loss.png'}, figures in {run / 'report.json'}"
    )
    console.print("What to type next:", markup=False)
    for command in (
        command_line("generate", run, "once there was a queen"),
        command_line("walkthrough", "the queen rules", "--run", run, "--html", "walk.html"),
        command_line("embeddings", "analogy", run, "man", "woman", "king"),
        command_line("probe", run) + "              # layer by layer, too",
        "llamita train book.txt          # your own text",
    ):
        console.print(f"  {command}", markup=False)
