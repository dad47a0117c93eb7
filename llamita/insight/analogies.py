"""Analogies with their controls: how often b - a + c finds d, and how often c alone would have."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Question = tuple[int, int, int, int]

_MOST_QUESTIONS = 20_000
_QUESTIONS_AT_A_TIME = 512
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class AnalogyScore:
    """Shares of questions answered right, each by the nearest row that isn't in the question.

    `accuracy` by 3CosAdd, `accuracy_mul` by 3CosMul. `control` asks for the nearest row to c and ignores the
    offset: what it gets right says nothing of the relation (Rogers et al. 2017, S17-1017).
    """

    questions: int
    accuracy: float
    accuracy_mul: float
    control: float


def analogy_questions(pairs: Sequence[tuple[int, int]]) -> list[Question]:
    """a is to b as c is to d for every two pairs; a sample (always the same one) where that is very many."""
    distinct = list(dict.fromkeys(pairs))
    others = max(len(distinct) - 1, 0)
    numbers: Sequence[int] = range(len(distinct) * others)
    if len(numbers) > _MOST_QUESTIONS:
        numbers = random.Random(0).sample(numbers, _MOST_QUESTIONS)
    made = []
    for number in numbers:
        first, second = divmod(number, others)
        made.append((*distinct[first], *distinct[second + (second >= first)]))
    return answerable(made)


def answerable(questions: Sequence[Question]) -> list[Question]:
    """Questions whose answer isn't one of their own words, which are never given as answers."""
    return [question for question in questions if question[3] not in question[:3]]


def score_analogies(
    unit: Float[Tensor, "rows dim"], families: Mapping[str, Sequence[Question]]
) -> dict[str, AnalogyScore]:
    """How well rows of length 1 answer questions about them; families without questions are left out."""
    return {name: _score(unit, torch.tensor(asked)) for name, asked in families.items() if asked}


def _score(unit: Float[Tensor, "rows dim"], questions: Int[Tensor, "asked 4"]) -> AnalogyScore:
    right = torch.zeros(3, dtype=torch.long, device=unit.device)
    for some in questions.to(unit.device).split(_QUESTIONS_AT_A_TIME):
        a, b, c = (unit[some[:, i]] @ unit.T for i in range(3))
        mul = (1 + b) * (1 + c) / ((1 + a) / 2 + _EPSILON)
        for kind, scores in enumerate((b - a + c, mul, c)):
            right[kind] += (scores.scatter(1, some[:, :3], -torch.inf).argmax(1) == some[:, 3]).sum()
    return AnalogyScore(len(questions), *(number / len(questions) for number in right.tolist()))
