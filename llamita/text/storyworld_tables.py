"""Distributions over the next event of a story, built when a context first needs them."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

Weights = dict[str, float]


class Table:
    """A distribution over events, with the surprisal of each and the entropy of all in nats."""

    __slots__ = ("cumulative", "entropy", "events", "probabilities", "surprisal")

    def __init__(self, weights: Mapping[str, float]) -> None:
        # fsum, since the sums of Python 3.12 differ from those of 3.11 in the last bit.
        total = math.fsum(weights.values())
        self.events = tuple(weights)
        self.probabilities = tuple(weight / total for weight in weights.values())
        self.cumulative = [*accumulate(self.probabilities[:-1]), 1.0]
        self.surprisal = tuple(-math.log(p) for p in self.probabilities)
        self.entropy = math.fsum(p * nats for p, nats in zip(self.probabilities, self.surprisal, strict=True))


class Tables(dict[Any, Table]):
    """Tables by context, which is a word or a tuple of several things."""

    def __init__(self, weigh: Callable[..., Mapping[str, float]]) -> None:
        super().__init__()
        self._weigh = weigh

    def __missing__(self, context: Any) -> Table:
        weights = self._weigh(*context) if isinstance(context, tuple) else self._weigh(context)
        table = self[context] = Table(weights)
        return table


def tabulated(weigh: Callable[..., Mapping[str, float]]) -> cached_property[Tables]:
    """Turn a method that weighs what can follow a context into a mapping from contexts to tables."""
    return cached_property(lambda owner: Tables(partial(weigh, owner)))


def mix(*parts: tuple[float, Mapping[str, float]]) -> Weights:
    """Weights in which each part has its share."""
    mixed: Weights = {}
    for share, weights in parts:
        total = math.fsum(weights.values())
        for word, weight in weights.items():
            mixed[word] = mixed.get(word, 0.0) + share * weight / total
    return mixed


def only(word: str) -> Weights:
    """Certainty."""
    return {word: 1.0}


def evenly(words: Iterable[str]) -> Weights:
    """Every word as likely as another."""
    return dict.fromkeys(words, 1.0)


def falling(words: Iterable[str], ratio: int, start: int = 0) -> Weights:
    """Each word so many times as likely as the next, from a start on and round the end."""
    order = list(words)
    return {word: 1 / ratio ** ((i - start) % len(order)) for i, word in enumerate(order)}
