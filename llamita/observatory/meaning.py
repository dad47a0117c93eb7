"""What a run's vectors know of things that are known to be true, with everything that it must be compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from llamita.errors import UserError
from llamita.insight.analogies import AnalogyScore, Question, analogy_questions, answerable, score_analogies
from llamita.insight.ppmi import ppmi_vectors
from llamita.insight.probes import ProbeScore, linear_probe
from llamita.insight.words import Word, find_words, whole_words
from llamita.observatory.lessons import Lessons, Property
from llamita.observatory.spaces import run_states
from llamita.observatory.word_lists import Analogies
from llamita.runs.folder import Run
from llamita.text.shards import Corpus
from llamita.text.tokenizer import Tokenizer

# Answers are looked for among the most frequent words, as in gensim; ids are in order of frequency, nearly.
_ANSWERS = 30_000
_SEVERAL = " (several tokens)"
# The columns that have fields of their own; all other spaces are named beside them.
_OWN_FIELDS = ("before", "after", "ppmi")


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

    `one_dimension` is what the best single coordinate tells after training. Of the words, `several` take several
    tokens and stand as the mean of these; layers aren't asked then.
    """

    words: int
    several: int
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


def measure_run(run: Run, lessons: Lessons, *, checkpoint: str = "best", corpus: Corpus | None = None) -> Meaning:
    """Put lessons to a run's tables before and after training and, if its text is at hand, to its layers.

    UserError if the vocabulary has none of the words.
    """
    model = run.model(checkpoint)
    spaces: dict[str, Tensor] = {
        "before": run.model("initial").embeddings.weight.detach(),
        "after": model.embeddings.weight.detach(),
    }
    if model.lm_head is not None:
        spaces["output"] = model.output_weight.detach()
    if corpus is not None:
        states = run_states(run, model, corpus).layers
        spaces |= {f"layer {number}": state for number, state in enumerate(states) if number}
    return measure(run.tokenizer(), lessons, spaces, corpus=corpus)


def measure(
    tokenizer: Tokenizer,
    lessons: Lessons,
    spaces: Mapping[str, Float[Tensor, "vocab_size dim"]],
    *,
    corpus: Corpus | None = None,
) -> Meaning:
    """Put lessons to matrices of one vector a token, named "before", "after" and any others, "layer 1" and so on.

    Vectors are centred; a row of zeros is a token that has none. Words of several tokens stand as the mean of
    these, in families of their own. The reference by counting reads the corpus. UserError if nothing can be asked.
    """
    words, missing = find_words(tokenizer, lessons.words)
    if not words:
        raise UserError(f"none of the {len(missing)} words is in the vocabulary; the first is {missing[0]!r}")
    rows = _Rows(tokenizer, words)
    questions = rows.questions(lessons.analogies)
    if not questions and not lessons.properties:
        raise UserError(
            f"no question can be made of these analogies ({len(missing)} words aren't in the vocabulary): "
            "give at least two pairs a family"
        )
    asked = {name: rows.asked(matrix, whole_only=name.startswith("layer ")) for name, matrix in spaces.items()}
    if corpus is not None:
        asked["ppmi"] = rows.asked(rows.counted(corpus, dim=spaces["after"].shape[1]))
    return Meaning(
        _analogies(asked, questions), _probes(asked, lessons.properties, rows), len(rows.ids), tuple(missing)
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A space's unit rows, and those that have no vector there."""

    unit: Float[Tensor, "rows dim"]
    unknown: set[int]


class _Rows:
    """Which row of every space stands for which word: answers by id, and below them words of several tokens."""

    def __init__(self, tokenizer: Tokenizer, words: list[Word]) -> None:
        self._size = tokenizer.get_vocab_size()
        frequent = [number for number in whole_words(tokenizer) if number < _ANSWERS]
        self.several = [word for word in words if word.several]
        self.ids = sorted({*frequent, *(word.ids[0] for word in words if not word.several)})
        place = {number: row for row, number in enumerate(self.ids)}
        self.of = {word.text: place[word.ids[0]] for word in words if not word.several}
        self.of |= {word.text: len(self.ids) + number for number, word in enumerate(self.several)}

    def asked(self, matrix: Float[Tensor, "vocab_size dim"], whole_only: bool = False) -> _Asked:
        """The rows of a space, centred over those that have a vector."""
        parts = [matrix[list(word.ids)].mean(0, keepdim=True) for word in self.several]
        rows = torch.cat([matrix[self.ids], *parts]).float().cpu()
        known: Bool[Tensor, " rows"] = rows.any(1)
        if whole_only:
            known[len(self.ids) :] = False
        mean = rows[: len(self.ids)][known[: len(self.ids)]].mean(0)
        unit = F.normalize(rows - mean, dim=1) * known.unsqueeze(1)
        return _Asked(unit, set((~known).nonzero()[:, 0].tolist()))

    def counted(self, corpus: Corpus, dim: int) -> Float[Tensor, "vocab_size dim"]:
        """Vectors made by counting, of the tokens that rows are made of."""
        ids = sorted({*self.ids, *(number for word in self.several for number in word.ids)})
        found = ppmi_vectors(corpus, ids, dim=dim)
        vectors = torch.zeros(self._size, found.shape[1])
        vectors[ids] = found
        return vectors

    def questions(self, families: Analogies) -> dict[str, list[Question]]:
        """Questions by family; with a word of several tokens apart, without those of which a word is missing."""
        made: dict[str, list[Question]] = {}
        for name, lines in families.items():
            known = [tuple(self.of[word] for word in line) for line in lines if all(word in self.of for word in line)]
            pairs = [(line[0], line[1]) for line in known if len(line) == 2]
            own = answerable([(line[0], line[1], line[2], line[3]) for line in known if len(line) == 4])
            for question in analogy_questions(pairs) + own:
                bucket = name + _SEVERAL if max(question) >= len(self.ids) else name
                made.setdefault(bucket, []).append(question)
        return made


def _analogies(spaces: Mapping[str, _Asked], questions: Mapping[str, list[Question]]) -> dict[str, AnalogyReport]:
    scores: dict[str, dict[str, AnalogyScore]] = {}
    for space, asked in spaces.items():
        layered = space.startswith("layer ")
        some = {name: q for name, q in questions.items() if not layered or asked.unknown.isdisjoint(set().union(*q))}
        scores[space] = score_analogies(asked.unit, some)
    reports = {}
    for name, after in scores["after"].items():
        accuracy = {space: found[name].accuracy for space, found in scores.items() if name in found}
        reports[name] = AnalogyReport(
            questions=after.questions,
            before=accuracy["before"],
            after=after.accuracy,
            mul=after.accuracy_mul,
            control=after.control,
            ppmi=accuracy.get("ppmi"),
            spaces={space: share for space, share in accuracy.items() if space not in _OWN_FIELDS},
        )
    return reports


def _probes(spaces: Mapping[str, _Asked], properties: Mapping[str, Property], rows: _Rows) -> dict[str, ProbeReport]:
    reports = {}
    for name, known in properties.items():
        kept = [number for number, word in enumerate(known.words) if word in rows.of]
        places = [rows.of[known.words[number]] for number in kept]
        labels, lemmas = [known.labels[number] for number in kept], [known.lemmas[number] for number in kept]
        try:
            scores: dict[str, ProbeScore] = {
                space: linear_probe(asked.unit[places], labels, lemmas)
                for space, asked in spaces.items()
                if not space.startswith("layer ") or asked.unknown.isdisjoint(places)
            }
        except UserError as error:
            missing = [word for word in known.words if word not in rows.of]
            without = f" without {', '.join(missing)}, which the vocabulary lacks" if missing else ""
            raise UserError(f"{name}: {error}{without}") from error
        accuracy, after = {space: score.accuracy for space, score in scores.items()}, scores["after"]
        reports[name] = ProbeReport(
            words=after.words,
            several=sum(place >= len(rows.ids) for place in places),
            majority=after.majority,
            before=accuracy["before"],
            after=after.accuracy,
            control=after.control,
            one_dimension=after.one_dimension,
            ppmi=accuracy.get("ppmi"),
            spaces={space: share for space, share in accuracy.items() if space not in _OWN_FIELDS},
        )
    return reports
