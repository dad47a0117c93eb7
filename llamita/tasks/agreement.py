"""Minimal pairs of StoryWorld: how a story goes on, and the same with one word that doesn't agree.

The form of a benchmark of linguistic minimal pairs (arXiv 1912.00582), from a grammar that knows what is wrong.
"""

from collections.abc import Sequence
from itertools import count

from llamita.tasks.items import Item, arranged
from llamita.text.storyworld import StoryWorld
from llamita.text.storyworld_meaning import KNOWN, VERB_OF

_EACH = 36  # items a family
_MOST_WORDS = 48  # of context
_SEED = 20_260_001  # of the first story; no run is likely to have it

_SWAPS = {
    "be": {"is": "are", "are": "is", "was": "were", "were": "was"},
    "pronoun": {"he": "she", "she": "he"},
    "possessive": {"his": "her", "her": "his", "its": "their", "their": "its"},
    # The world's animals do nothing to themselves, so that nobody is `itself`.
    "reflexive": {"himself": "herself", "herself": "himself", "themselves": "himself"},
}
_FAMILIES = ("number", "past", "future", *_SWAPS)


def storyworld_agreement() -> list[Item]:
    """Pairs by what agrees: verbs in number and tense, forms of be, pronouns, owners and reflexives."""
    world = StoryWorld(seed=0)
    found: dict[str, dict[str, tuple[str, str]]] = {family: {} for family in _FAMILIES}
    for seed in count(_SEED):
        (story,) = world.stories(1, seed)
        words = story.words
        swaps = [swap for at in range(1, min(len(words), _MOST_WORDS)) if (swap := _swap(words, at)) is not None]
        # One pair of a story, of the family that lacks most, so that no two items are alike.
        for family, at, wrong in sorted(swaps, key=lambda swap: len(found[swap[0]])):
            pairs, context = found[family], " ".join(words[:at])
            possible = world.next_word_distribution(words[:at])
            if len(pairs) < _EACH and context not in pairs and wrong not in possible:
                rest = words[at + 1 : words.index(".", at) + 1]
                pairs[context] = (" ".join((words[at], *rest)), " ".join((wrong, *rest)))
                break
        if all(len(pairs) == _EACH for pairs in found.values()):
            break
    return [
        item
        for family, pairs in found.items()
        for item in arranged(family, [(context, right, [wrong]) for context, (right, wrong) in pairs.items()])
    ]


def _swap(words: Sequence[str], at: int) -> tuple[str, int, str] | None:
    """What the word there agrees in, where it stands, and the form of it that might not; None for other words."""
    word, before = words[at], words[at - 1]
    for family, others in _SWAPS.items():
        if word in others:
            return family, at, others[word]
    if word not in VERB_OF or not (before == "will" or before in ("he", "she", "they") or before in KNOWN):
        return None
    return _conjugated(word, before, at)


def _conjugated(word: str, before: str, at: int) -> tuple[str, int, str] | None:
    """The same for a verb right after its subject, or after `will`."""
    verb, many = VERB_OF[word], before == "they" or bool(KNOWN[before].plural)
    if before == "will":
        return "future", at, verb.third
    if KNOWN[before].kind not in ("person", "animal", "name") and before not in ("he", "she", "they"):
        return None
    if word == verb.past:
        return "past", at, verb.base if many else verb.third
    return "number", at, verb.third if many else verb.base
