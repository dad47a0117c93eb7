"""`llamita probe`: what a run's vectors know of things that are known to be true."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from llamita.cli.console import aligned, escaped, out, print_json
from llamita.errors import UsageError, UserError
from llamita.observatory.lessons import Lessons, Property, story_lessons
from llamita.observatory.meaning import AnalogyReport, Meaning, ProbeReport, measure_run
from llamita.observatory.spaces import training_text
from llamita.observatory.word_lists import read_analogies, read_two_lists
from llamita.runs.folder import Run
from llamita.text.shards import Corpus
from llamita.text.storyworld import StoryWorld
from llamita.training.stories import is_story_run

_ANALOGY_COLUMNS = ("before", "after", "mul", "control", "ppmi")
_PROBE_COLUMNS = ("majority", "before", "after", "control", "one_dimension", "ppmi")


def probe(
    run: Path,
    *,
    analogies: Path | None = None,
    lists: tuple[Path, Path] | None = None,
    checkpoint: str = "best",
    json: bool = False,
) -> None:
    """Analogies and linear probes with all their controls: before training, without the relation, by counting alone.

    A run on StoryWorld (the demo's) is asked what its grammar makes true; for other text bring words of your own.

    Parameters
    ----------
    run
        The run's folder.
    analogies
        A file with a pair ("man woman") or a whole question of four words a line; ": NAME" begins a family.
    lists
        Two files of words, one a line (and its lemma, if it has another): can the vectors tell them apart?
    checkpoint
        best, latest or a step.
    json
        Print one JSON object.
    """
    opened = Run.open(run)
    lessons = _lessons(opened, analogies, lists)
    corpus, trouble = _text(opened)
    meaning = measure_run(opened, lessons, checkpoint=checkpoint, corpus=corpus)
    if json:
        print_json(meaning)
        return
    print_meaning(meaning, out)
    if trouble:
        out.print(f"neither layers nor PPMI+SVD: {trouble}")


def print_meaning(meaning: Meaning, console: Console) -> None:
    """Both tables, and how to read them."""
    if meaning.missing:
        console.print(f"not in the vocabulary: {', '.join(escaped(word) for word in meaning.missing)}")
    if meaning.analogies:
        console.print(f"Analogies, a is to b as c is to d: the share answered right among {meaning.answers:,} words.")
        console.print("control: the word nearest to c, whatever the relation. PPMI+SVD: counting the same text.")
        _print_table(meaning.analogies, "questions", _ANALOGY_COLUMNS, console)
    if meaning.probes:
        for name, row in meaning.probes.items():
            if row.several:
                parts = f"{row.several} of {row.words} words take several tokens; their mean stands for them"
                console.print(f"{escaped(name)}: {parts}")
        console.print("\nLinear probes: balanced accuracy on words whose lemma they never saw; 0.5 is chance.")
        console.print("majority: the larger class's share of the words. control: labels shuffled. one dim: the best")
        console.print("single coordinate instead of a combination of all.")
        _print_table(meaning.probes, "words", _PROBE_COLUMNS, console)


def _print_table(
    rows: Mapping[str, AnalogyReport | ProbeReport], size: str, columns: tuple[str, ...], console: Console
) -> None:
    titles = {"mul": "3CosMul", "ppmi": "PPMI+SVD", "one_dimension": "one dim"}
    spaces = list(dict.fromkeys(space for row in rows.values() for space in row.spaces))
    cells = [["", size, *(titles.get(column, column) for column in columns), *spaces]]
    for name, row in rows.items():
        figures = [getattr(row, column) for column in columns] + [row.spaces.get(space) for space in spaces]
        cells.append([escaped(name), str(getattr(row, size)), *("-" if x is None else f"{x:.2f}" for x in figures)])
    for line in aligned(cells):
        console.print(f"  {line}")


def _lessons(run: Run, analogies: Path | None, lists: tuple[Path, Path] | None) -> Lessons:
    if analogies is None and lists is None:
        if not is_story_run(run.config()):
            raise UsageError(f"{run.path} learnt from your own text: bring words by --analogies FILE or --lists A B")
        return story_lessons(StoryWorld(seed=0))
    properties = {}
    if lists is not None:
        sides = read_two_lists(*lists)
        words = [(word, lemma, side) for side, found in enumerate(sides) for word, lemma in found.items()]
        texts, lemmas, labels = zip(*words, strict=True)
        properties[f"{lists[0].stem} / {lists[1].stem}"] = Property(texts, tuple(map(bool, labels)), lemmas)
    return Lessons({} if analogies is None else read_analogies(analogies), properties)


def _text(run: Run) -> tuple[Corpus | None, str]:
    try:
        return training_text(run), ""
    except UserError as error:
        return None, str(error)
