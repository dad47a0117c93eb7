"""StoryWorld: small stories whose meaning and whose entropy are known.

Each word is drawn from a distribution that follows from the words before it and from nothing else. So what a
word costs, -log p, is the loss of the best predictor there can be; its mean over a text is any model's floor.
"""

import math
import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llamita.errors import UserError
from llamita.text.storyworld_chances import END
from llamita.text.storyworld_grammar import Grammar
from llamita.text.storyworld_meaning import Features, analogies, features

__all__ = ["Features", "Story", "StoryWorld", "floor"]


@dataclass(frozen=True)
class Story:
    """A story's words, with the surprisal and the entropy, in nats, of each of them and then of its end."""

    words: tuple[str, ...]
    surprisal: tuple[float, ...]
    entropy: tuple[float, ...]

    @property
    def text(self) -> str:
        """Its words and full stops with a space between each two."""
        return " ".join(self.words)


class StoryWorld:
    """A world of stories; its seed decides who likes what and which words are common."""

    def __init__(self, seed: int = 0) -> None:
        self._grammar = Grammar(seed)
        self.vocabulary = tuple(sorted(features()))

    def story(self, rng: random.Random) -> Story:
        """Tell one story."""
        words: list[str] = []
        surprisal: list[float] = []
        entropy: list[float] = []
        rule = self._grammar.story()
        table = next(rule)
        while True:
            event = bisect(table.cumulative, rng.random())
            surprisal.append(table.surprisal[event])
            entropy.append(table.entropy)
            word = table.events[event]
            if word == END:
                return Story(tuple(words), tuple(surprisal), tuple(entropy))
            words.append(word)
            table = rule.send(word)

    def stories(self, count: int, seed: int) -> Iterator[Story]:
        """Tell a number of stories, the same ones for the same seed on every machine."""
        rng = random.Random(seed)
        return (self.story(rng) for _ in range(count))

    def next_word_distribution(self, words: Sequence[str]) -> dict[str | None, float]:
        """The exact chance of each word after the given ones, None standing for the story's end.

        Raises UserError if no story begins so.
        """
        rule = self._grammar.story()
        table = next(rule)
        for i, word in enumerate(words):
            if word not in table.events or word == END:
                told, possible = " ".join(words[: i + 1]), ", ".join(filter(None, table.events[:9]))
                raise UserError(f"no story goes {told!r}; instead of the last word there could be {possible} ...")
            table = rule.send(word)
        return {word or None: p for word, p in zip(table.events, table.probabilities, strict=True)}

    def analogies(self) -> dict[str, list[tuple[str, str]]]:
        """Pairs of words by the relation that holds between the first and the second."""
        return analogies()

    def features(self) -> dict[str, Features]:
        """What is true of each word of the vocabulary."""
        return features()


def floor(stories: Iterable[Story]) -> float:
    """The mean surprisal of an event, a story's end included, in nats: no model's expected loss is lower."""
    events = [nats for story in stories for nats in story.surprisal]
    return math.fsum(events) / len(events)
