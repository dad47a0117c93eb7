"""Analogies as questions: what is to C as B is to A, said in sentences.

Wrong answers are B itself, which only copies, and what answers the same question about other words.
"""

import random
from collections.abc import Callable, Sequence
from itertools import permutations

from llamita.tasks.items import CHOICES, Item, arranged
from llamita.text.storyworld_lexicon import ANIMALS, LANDS, PERSONS
from llamita.text.storyworld_meaning import article, everyman

Pair = tuple[str, str]

_EACH = 32  # items a family
_SEED = 20_280_001
_OPENING = "once there was a king named tom ."  # for a model that never saw a story begin otherwise

_ENGLISH: dict[str, tuple[Pair, ...]] = {
    family: tuple((left, right) for left, right in (pair.split(":") for pair in pairs.split()))
    for family, pairs in {
        "gender": "man:woman king:queen prince:princess father:mother son:daughter brother:sister uncle:aunt "
        "actor:actress boy:girl husband:wife",
        "plural": "dog:dogs child:children mouse:mice city:cities knife:knives foot:feet house:houses man:men "
        "leaf:leaves box:boxes",
        "past": "go:went see:saw take:took eat:ate give:gave write:wrote speak:spoke run:ran think:thought walk:walked",
        "comparative": "big:bigger small:smaller fast:faster good:better bad:worse strong:stronger old:older "
        "long:longer easy:easier far:farther",
        "opposite": "hot:cold up:down day:night open:closed rich:poor early:late left:right full:empty love:hate "
        "happy:sad",
        "capital": "France:Paris Italy:Rome Spain:Madrid Japan:Tokyo Egypt:Cairo Russia:Moscow Greece:Athens "
        "China:Beijing England:London Germany:Berlin",
        "young": "dog:puppy cat:kitten cow:calf horse:foal sheep:lamb hen:chick duck:duckling bear:cub pig:piglet "
        "swan:cygnet",
    }.items()
}


def analogies() -> list[Item]:
    """Analogies in sentences that StoryWorld's stories have: who is who, young animals, capitals, languages."""
    persons = [person[i] for person in PERSONS[2:] for i in (0, 1)]
    crowds = [person[i] for person in PERSONS[2:] for i in (2, 3)]
    families: dict[str, tuple[list[Pair], Callable[[str], str]]] = {
        "person": ([(noun, everyman(noun)) for noun in persons], lambda noun: f"{article(noun)} {noun} is a"),
        "persons": ([(noun, everyman(noun)) for noun in crowds], lambda noun: f"all {noun} are"),
        "young": ([(a.young, a.grown) for a in ANIMALS], lambda noun: f"{article(noun)} {noun} is a young"),
        "capital": ([(land.name, land.capital) for land in LANDS], lambda land: f"in {land} the capital is"),
        "language": ([(land.name, land.language) for land in LANDS], lambda land: f"people in {land} speak"),
    }
    items = []
    for family, (pairs, sentence) in families.items():
        questions = _questions(family, pairs)
        asked = [(f"{_OPENING} {sentence(a)} {b} . {sentence(c)}", d, wrong) for (a, b), (c, d), wrong in questions]
        items += arranged(family, asked)
    return items


def analogies_english() -> list[Item]:
    """Analogies in plain English, for models of other text than StoryWorld's."""
    items = []
    for family, pairs in _ENGLISH.items():
        questions = _questions(family, pairs)
        items += arranged(family, [(f"{a} is to {b} as {c} is to", d, wrong) for (a, b), (c, d), wrong in questions])
    return items


def _questions(family: str, pairs: Sequence[Pair]) -> list[tuple[Pair, Pair, list[str]]]:
    """Some of the questions that two pairs of a family make, always the same ones, with wrong answers."""
    rng = random.Random(f"{_SEED} {family}")
    answers = list(dict.fromkeys(right for _, right in pairs))
    couples = [(one, other) for one, other in permutations(pairs, 2) if one[1] != other[1]]
    questions = []
    for one, other in rng.sample(couples, _EACH):
        others = [answer for answer in answers if answer not in (one[1], other[1])]
        wrong = [one[1], *rng.sample(others, CHOICES - 2)]
        rng.shuffle(wrong)
        questions.append((one, other, wrong))
    return questions
