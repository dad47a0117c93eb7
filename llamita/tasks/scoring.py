"""A model's answers: of each item's choices the one that it finds likeliest."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llamita.generation.likelihood import encode_pair, log_likelihoods
from llamita.model.transformer import LLaMaTransformer
from llamita.tasks.agreement import storyworld_agreement
from llamita.tasks.analogies import analogies, analogies_english
from llamita.tasks.cloze import cloze
from llamita.tasks.items import Item
from llamita.text.tokenizer import Tokenizer

TASKS: Mapping[str, Callable[[], list[Item]]] = {
    task.__name__: task for task in (storyworld_agreement, analogies, analogies_english, cloze)
}


@dataclass(frozen=True, slots=True)
class TaskScore:
    """`acc`: the share of `items` whose likeliest choice is the right one; `acc_norm`: likeliest a character.

    As lm-evaluation-harness has them, with their standard errors. `chance` is what guessing gives, `families` are
    parts of acc. Of `unknown` items the tokenizer doesn't know each word, so that choices may look the same to it.
    """

    acc: float
    acc_stderr: float
    acc_norm: float
    acc_norm_stderr: float
    chance: float
    items: int
    unknown: int
    families: dict[str, float]


def score(model: LLaMaTransformer, tokenizer: Tokenizer, items: Sequence[Item], *, batch_size: int = 32) -> TaskScore:
    """What a model answers to the items, each choice after its context and a space."""
    pairs = [encode_pair(tokenizer, item.context, f" {choice}") for item in items for choice in item.choices]
    nats = iter(nats for nats, _ in log_likelihoods(model, pairs, batch_size=batch_size))
    right, right_normed = [], []
    for item in items:
        each = [next(nats) for _ in item.choices]
        normed = [value / len(choice) for value, choice in zip(each, item.choices, strict=True)]
        right.append(_largest(each) == item.gold)
        right_normed.append(_largest(normed) == item.gold)
    families: dict[str, list[bool]] = {}
    for item, answer in zip(items, right, strict=True):
        families.setdefault(item.family, []).append(answer)
    texts = (" ".join((item.context, *item.choices)) for item in items)
    return TaskScore(
        *(*_mean(right), *_mean(right_normed)),
        chance=_mean([1 / len(item.choices) for item in items])[0],
        items=len(items),
        unknown=sum(bool(tokenizer.unknown(text)) for text in texts),
        families={family: _mean(answers)[0] for family, answers in families.items()},
    )


def _largest(values: Sequence[float]) -> int:
    """The number of the largest value, the first of several."""
    return max(range(len(values)), key=values.__getitem__)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(spread / max(len(values) - 1, 1) / len(values))
