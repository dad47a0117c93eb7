"""The last word of a sentence of StoryWorld, among words of its kind of which no other can stand there."""

import random
from collections.abc import Sequence
from itertools import count

from llamita.tasks.items import CHOICES, Item, arranged
from llamita.text.storyworld import Story, StoryWorld
from llamita.text.storyworld_meaning import KNOWN

_EACH = 24  # items a family
_MOST_WORDS = 48  # of context
_SEED = 20_270_001  # of the first story; no run is likely to have it
_FAMILIES = ("person", "animal", "object", "place", "clothing", "language", "good", "look")


def cloze() -> list[Item]:
    """Items by what the word names: only one of the choices can follow, by the grammar and by what was told before."""
    world = StoryWorld(seed=0)
    found: dict[str, list[tuple[str, str, Sequence[str]]]] = {family: [] for family in _FAMILIES}
    seen: set[str] = set()
    for seed in count(_SEED):
        (story,) = world.stories(1, seed)
        rng = random.Random(seed)
        for at in _last_words(story):
            word, context = story.words[at], " ".join(story.words[:at])
            questions, wrong = found[KNOWN[word].kind], _impossible(world, story.words[:at], word)
            if len(questions) < _EACH and context not in seen and len(wrong) >= CHOICES - 1:
                # Of much the same length, or a model that knows nothing would find short words likelier.
                near = [other for _, other in sorted((abs(len(other) - len(word)), other) for other in wrong)]
                questions.append((context, word, rng.sample(near[: 2 * CHOICES], CHOICES - 1)))
                seen.add(context)
                break  # one of a story, so that no two items are alike
        if all(len(questions) == _EACH for questions in found.values()):
            break
    return [item for family, questions in found.items() for item in arranged(family, questions)]


def _last_words(story: Story) -> list[int]:
    """Where sentences behind the first end with a word of a family."""
    words = story.words
    first, most = words.index("."), min(len(words) - 1, _MOST_WORDS)
    return [at for at in range(first + 1, most) if words[at + 1] == "." and KNOWN[words[at]].kind in _FAMILIES]


def _impossible(world: StoryWorld, before: Sequence[str], word: str) -> list[str]:
    """Words of the same kind and number as this one that no story has after those before it."""
    kind, many = KNOWN[word].kind, KNOWN[word].plural
    possible = world.next_word_distribution(before)
    alike = (other for other, known in KNOWN.items() if (known.kind, known.plural) == (kind, many))
    return sorted(other for other in alike if other not in possible)
