"""What is true of the words of StoryWorld, and which form of a word agrees with another."""

from collections.abc import Iterator
from dataclasses import dataclass

from llamita.text.storyworld_lexicon import (
    ANIMALS,
    CLOTHES,
    FINERY,
    FUNCTION_WORDS,
    LANDS,
    LOOKS,
    NAMES,
    PERSONS,
    PLACES,
    SCALES,
    TAXA,
    THINGS,
    VERBS,
    WILDS,
)

PERSON_OF = {noun: person for person in PERSONS for noun in person[:4]}
ANIMAL_OF = {noun: animal for animal in ANIMALS for noun in animal[:4]}
VERB_OF = {form: verb for verb in VERBS for form in verb[:3]}
LAND_OF = {word: land for land in LANDS for word in land[:3]}
SCALE_OF = {degrees[1]: (scale, high) for scale, ends in SCALES.items() for high, degrees in enumerate(ends)}

PRONOUN = {"male": "he", "female": "she", None: "it"}
POSSESSIVE = {"male": "his", "female": "her", None: "its"}
REFLEXIVE = {"male": "himself", "female": "herself", None: "itself"}
BE = {"present": ("is", "are"), "past": ("was", "were"), "future": ("be", "be")}


@dataclass(frozen=True)
class Features:
    """What is true of a word; None where the question doesn't arise."""

    lemma: str
    kind: str
    animate: bool | None = None
    gender: str | None = None
    plural: bool | None = None
    young: bool | None = None
    cls: str | None = None
    size: int | None = None


def forms(noun: str) -> tuple[str, str, str, str]:
    """Both singulars and both plurals of what a noun names: male and female, or grown and young."""
    return PERSON_OF[noun][:4] if noun in PERSON_OF else ANIMAL_OF[noun][:4]


def level(animal: str, scale: str) -> int:
    """How much of a scale an animal has; the young have half of what the grown have."""
    species = ANIMAL_OF[animal]
    grown: int = getattr(species.levels, scale)
    return grown // 2 if animal in (species.young, species.youngs) else grown


def _creatures() -> Iterator[tuple[str, Features]]:
    for person in PERSONS:
        young = person.age == "young"
        for i, noun in enumerate(person[:4]):
            gender = ("male", "female")[i % 2]
            yield noun, Features(person[i % 2], "person", True, gender, i > 1, young, person.cls)
    for animal in ANIMALS:
        for i, noun in enumerate(animal[:4]):
            lemma, young, size = animal[:2][i % 2], i % 2 == 1, level(noun, "size")
            yield noun, Features(lemma, "animal", True, None, i > 1, young, animal.taxon, size)
    for gender, names in NAMES.items():
        for name in names:
            yield name, Features(name, "name", True, gender, False)
    for pair in TAXA.items():
        for i, noun in enumerate(pair):
            yield noun, Features(pair[0], "taxon", True, plural=i == 1)


def _inanimates() -> Iterator[tuple[str, Features]]:
    for kind, lists in (("object", THINGS), ("place", PLACES), ("place", WILDS)):
        for cls, nouns in lists.items():
            for noun in nouns:
                yield noun, Features(noun, kind, False, plural=False, cls=cls)
    for wearer, clothes in CLOTHES.items():
        for i, noun in enumerate(clothes):
            yield (
                noun,
                Features(clothes[i - i % 2], "clothing", False, plural=i % 2 == 1, cls=wearer.split("_")[0]),
            )
    for gender, noun in FINERY.items():
        yield noun, Features(noun, "clothing", False, cls=gender)
    for land in LANDS:
        for noun, kind in zip(land, ("land", "capital", "language", "good"), strict=True):
            yield noun, Features(noun, kind, None if kind == "language" else False, cls=land.name)


def _the_rest() -> Iterator[tuple[str, Features]]:
    for verb in VERBS:
        for form in verb[:3]:
            yield form, Features(verb.base, "verb")
    for cls, looks in LOOKS.items():
        for look in looks:
            yield look, Features(look, "look", cls=cls)
    for scale, ends in SCALES.items():
        for degrees in ends:
            for adjective in degrees:
                yield adjective, Features(degrees[0], "adjective", cls=scale)
    for words in FUNCTION_WORDS.values():
        for word in words:
            yield word, Features(word, "function")


def features() -> dict[str, Features]:
    """What is true of each word that a story can hold."""
    return dict([*_creatures(), *_inanimates(), *_the_rest()])


def analogies() -> dict[str, list[tuple[str, str]]]:
    """Pairs of words by the relation that holds between the first and the second."""
    degrees = [ends for scale in SCALES.values() for ends in scale]
    royals = [PERSON_OF["king"], PERSON_OF["prince"]]
    return {
        "gender": [(p.male, p.female) for p in PERSONS],
        "gender_plural": [(p.males, p.females) for p in PERSONS],
        "number_person": [(p[i], p[i + 2]) for p in PERSONS for i in (0, 1)],
        "number_animal": [pair for a in ANIMALS for pair in ((a.grown, a.growns), (a.young, a.youngs))],
        "animal_young": [(a.grown, a.young) for a in ANIMALS],
        "royalty": [(everyman(p[i]), p[i]) for p in royals for i in (0, 1)],
        "capital": [(land.name, land.capital) for land in LANDS],
        "language": [(land.name, land.language) for land in LANDS],
        "third_person": [(v.base, v.third) for v in VERBS],
        "past": [(v.third, v.past) for v in VERBS],
        "comparative": [(d[0], d[1]) for d in degrees],
        "superlative": [(d[0], d[2]) for d in degrees],
    }


KNOWN = features()


def article(noun: str) -> str:
    """The indefinite article of a noun; none here sounds other than it is spelt, as `hour` does."""
    return "an" if noun[0] in "aeiou" else "a"


def number(noun: str, many: bool) -> str:
    """A person or an animal in the singular or in the plural."""
    return forms(noun)[forms(noun).index(noun) % 2 + 2 * many]


def counterpart(noun: str) -> str:
    """The other gender of a person, the other age of an animal."""
    return forms(noun)[forms(noun).index(noun) ^ 1]


def everyman(noun: str) -> str:
    """What a person is before all else: a man, a girl, women."""
    person = PERSON_OF[noun]
    common = next(row for row in PERSONS if (row.cls, row.age) == ("common", person.age))
    return common[person.index(noun)]


def age(noun: str) -> str:
    """`young` or `grown`, whichever a person or an animal is."""
    return "young" if KNOWN[noun].young else "grown"


def plural(noun: str) -> bool:
    """Whether a noun names several."""
    return bool(KNOWN[noun].plural)


def pronoun(noun: str) -> str:
    """he, she, it or they: the subject that stands for a noun."""
    return "they" if plural(noun) else PRONOUN[KNOWN[noun].gender]


def possessive(noun: str) -> str:
    """his, her, its or their: what stands before what belongs to a noun."""
    return "their" if plural(noun) else POSSESSIVE[KNOWN[noun].gender]


def reflexive(noun: str) -> str:
    """himself, herself, itself or themselves: a noun that does something to itself."""
    return "themselves" if plural(noun) else REFLEXIVE[KNOWN[noun].gender]


def inflect(lemma: str, noun: str, tense: str) -> str:
    """The form of a verb after a subject; the future is what follows `will`."""
    if lemma == "be":
        return BE[tense][plural(noun)]
    verb = VERB_OF[lemma]
    if tense == "past":
        return verb.past
    return verb.base if plural(noun) or tense == "future" else verb.third
