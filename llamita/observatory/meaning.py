"""What a run's vectors know of things that are known to be true, with everything that it must be compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llamita.errors import UserError
from llamita.insight.analogies import Question, analogy_questions, score_analogies
from llamita.insight.ppmi import ppmi_vectors
from llamita.insight.probes import linear_probe
from llamita.insight.words import Word, find_words, whole_words
from llamita.observatory.spaces import run_states
from llamita.observatory.word_lists import Analogies
from llamita.runs.folder import Run
from llamita.text.shards import Corpus
from llamita.text.storyworld import StoryWorld
from llamita.text.tokenizer import Tokenizer

# Answers are looked for among the most frequent words, as in gensim; ids are in order of frequency, nearly.
_ANSWERS = 30_000
_SEVERAL = " (several tokens)"


@dataclass(frozen=True, slots=True)
class Property:
    """Words that have a property or lack it, each with the lemma that holds its forms together."""

    words: tuple[str, ...]
    labels: tuple[bool, ...]
    lemmas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is to be known: families of analogies, and properties of words."""

    analogies: Analogies
    properties: dict[str, Property]

    @property
    def words(self) -> list[str]:
        """Every word that occurs, once."""
        of_questions = (word for family in self.analogies.values() for words in family for word in words)
        of_properties = (word for known in self.properties.values() for word in known.words)
        return list(dict.fromkeys([*of_questions, *of_properties]))


@dataclass(frozen=True, slots=True)
class AnalogyReport:
    """Accuracies of one family: before and after training, by 3CosMul, without the offset, and by counting.

    `spaces` are those of the output table, if it's another, and of each layer's states. None: not measured.
    """

    questions: int
    before: float
    after: float
    mul: float
    control: float
    ppmi: float | None
    spaces: dict[str, float]


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Balanced accuracies of one property on lemmas that the probe never saw; `control` has shuffled labels.

    `one_dimension` is what the best single coordinate tells after training.
    """

    words: int
    majority: float
    before: float
    after: float
    control: float
    one_dimension: float
    ppmi: float | None
    spaces: dict[str, float]


@dataclass(frozen=True, slots=True)
class Meaning:
    """Everything measured; `answers` words were candidates, `missing` ones aren't in the vocabulary."""

    analogies: dict[str, AnalogyReport]
    probes: dict[str, ProbeReport]
    answers: int
    missing: tuple[str, ...]


def story_lessons(world: StoryWorld) -> Lessons:
    """What StoryWorld's grammar makes true of its words."""
    known = world.features()

    def words_with(name: str, value: object) -> Property:
        asked = {word: features for word, features in known.items() if getattr(features, name) is not None}
        labels = tuple(getattr(features, name) == value for features in asked.values())
        return Property(tuple(asked), labels, tuple(features.lemma for features in asked.values()))

    properties = {"animacy": words_with("animate", True), "gender": words_with("gender", "female")}
    return Lessons(
        {name: [*pairs] for name, pairs in world.analogies().items()},
        {**properties, "plural": words_with("plural", True)},
    )


def story_groups(world: StoryWorld, each: int = 11) -> dict[str, str]:
    """Some of StoryWorld's nouns, singular, by what they name: words to draw on a map."""
    groups: dict[str, list[str]] = {"men": [], "women": [], "animals": [], "things": [], "places": []}
    for word, known in world.features().items():
        names = {"animal": "animals", "object": "things", "place": "places"}
        group = (
            {"male": "men", "female": "women"}[known.gender or ""] if known.kind == "person" else names.get(known.kind)
        )
        if group is not None and not known.plural and not known.young:
            groups[group].append(word)
    return {word: group for group, words in groups.items() for word in words[:: max(len(words) // each, 1)][:each]}


def measure_run(
    run: Run, lessons: Lessons, *, checkpoint: str = "best", corpus: Corpus | None = None, layers: bool = True
) -> Meaning:
    """Put lessons to a run's tables before and after training and, if its text is at hand, to its layers.

    UserError if the vocabulary has none of the words.
    """
    tokenizer, model = run.tokenizer(), run.model(checkpoint)
    spaces: dict[str, Tensor] = {
        "before": run.model("initial").embeddings.weight.detach(),
        "after": model.embeddings.weight.detach(),
    }
    if model.lm_head is not None:
        spaces["output"] = model.output_weight.detach()
    met = None
    if corpus is not None and layers:
        states = run_states(run, model, corpus)
        met = set(states.met)
        spaces |= {f"layer {number}": state for number, state in enumerate(states.layers) if number}
    return measure(tokenizer, lessons, spaces, corpus=corpus, met=met)


def measure(
    tokenizer: Tokenizer,
    lessons: Lessons,
    spaces: Mapping[str, Float[Tensor, "vocab_size dim"]],
    *,
    corpus: Corpus | None = None,
    met: set[int] | None = None,
) -> Meaning:
    """Put lessons to matrices of one vector a token, named "before", "after" and any others.

    Vectors are centred. Words of several tokens stand as the mean of these, in families of their own. `met` are
    the ids that layers have states of. The reference by counting reads the corpus.
    """
    words, missing = find_words(tokenizer, lessons.words)
    if not words:
        raise UserError(f"none of the {len(missing)} words is in the vocabulary; the first is {missing[0]!r}")
    ids = [number for number in whole_words(tokenizer) if number < _ANSWERS]
    ids = sorted({*ids, *(number for word in words if not word.several for number in word.ids)})
    several = [word for word in words if word.several]
    place = {number: row for row, number in enumerate(ids)}
    row_of = {word.text: place[word.ids[0]] for word in words if not word.several}
    row_of |= {word.text: len(ids) + number for number, word in enumerate(several)}
    units = {name: _unit_rows(matrix, ids, several) for name, matrix in spaces.items()}
    if corpus is not None:
        parts = sorted({*ids, *(number for word in several for number in word.ids)})
        counted = torch.zeros(tokenizer.get_vocab_size(), spaces["after"].shape[1])
        found = ppmi_vectors(corpus, parts, dim=spaces["after"].shape[1])
        counted[parts, : found.shape[1]] = found
        units["ppmi"] = _unit_rows(counted, ids, several)
    unmet = set() if met is None else {row for number, row in place.items() if number not in met}
    unmet |= set(range(len(ids), len(ids) + len(several)))
    return Meaning(
        _analogies(units, _questions(lessons.analogies, row_of, len(ids)), unmet),
        _probes(units, lessons.properties, row_of, unmet),
        len(ids) + len(several),
        tuple(missing),
    )


def _unit_rows(
    matrix: Float[Tensor, "vocab_size dim"], ids: list[int], several: Sequence[Word]
) -> Float[Tensor, "rows dim"]:
    """The centred unit rows of ids, and below them those of words of several tokens."""
    rows = torch.cat([matrix[ids], *(matrix[list(word.ids)].mean(0, keepdim=True) for word in several)]).float()
    return F.normalize(rows - rows[: len(ids)].mean(0), dim=1)


def _questions(families: Analogies, row_of: Mapping[str, int], singles: int) -> dict[str, list[Question]]:
    """Questions of rows by family; those with a word of several tokens apart, those with a missing one left out."""
    asked: dict[str, list[Question]] = {}
    for name, rows in families.items():
        known = [tuple(row_of[word] for word in words) for words in rows if all(word in row_of for word in words)]
        pairs = [(row[0], row[1]) for row in known if len(row) == 2]
        questions = analogy_questions(pairs) + [(row[0], row[1], row[2], row[3]) for row in known if len(row) == 4]
        for question in questions:
            bucket = name + _SEVERAL if max(question) >= singles else name
            asked.setdefault(bucket, []).append(question)
    return asked


def _analogies(
    units: Mapping[str, Tensor], questions: Mapping[str, list[Question]], unmet: set[int]
) -> dict[str, AnalogyReport]:
    scores = {}
    for space, unit in units.items():
        asked = questions
        if space.startswith("layer "):
            asked = {name: found for name, found in questions.items() if unmet.isdisjoint(set().union(*found))}
        scores[space] = score_analogies(unit, asked)
    reports = {}
    for name, after in scores["after"].items():
        others = [space for space in scores if space not in ("before", "after", "ppmi") and name in scores[space]]
        reports[name] = AnalogyReport(
            after.questions,
            scores["before"][name].accuracy,
            after.accuracy,
            after.accuracy_mul,
            after.control,
            scores["ppmi"][name].accuracy if "ppmi" in scores else None,
            {space: scores[space][name].accuracy for space in others},
        )
    return reports


def _probes(
    units: Mapping[str, Tensor], properties: Mapping[str, Property], row_of: Mapping[str, int], unmet: set[int]
) -> dict[str, ProbeReport]:
    reports = {}
    for name, known in properties.items():
        kept = [number for number, word in enumerate(known.words) if word in row_of]
        rows = [row_of[known.words[number]] for number in kept]
        labels, lemmas = [known.labels[number] for number in kept], [known.lemmas[number] for number in kept]
        layered = unmet.isdisjoint(rows)
        scores = {
            space: linear_probe(unit[rows], labels, lemmas)
            for space, unit in units.items()
            if layered or not space.startswith("layer ")
        }
        after = scores["after"]
        reports[name] = ProbeReport(
            after.words,
            after.majority,
            scores["before"].accuracy,
            after.accuracy,
            after.control,
            after.one_dimension,
            scores["ppmi"].accuracy if "ppmi" in scores else None,
            {space: score.accuracy for space, score in scores.items() if space not in ("before", "after", "ppmi")},
        )
    return reports
