"""How likely each word of StoryWorld is in each context: what is true, coloured by a seed.

Longer than other files because the weights are to be read, and balanced, together.
"""

import random
from collections.abc import Iterable, Mapping
from functools import cached_property

from llamita.text.storyworld_lexicon import (
    ANIMALS,
    CLOTHES,
    FINERY,
    HABITS,
    LANDS,
    LOOKS,
    NAMES,
    OBJECTS,
    PERSONS,
    PETS,
    PLACES,
    SCALES,
    TAXA,
    THINGS,
    WILDS,
)
from llamita.text.storyworld_meaning import (
    ANIMAL_OF,
    KNOWN,
    LAND_OF,
    PERSON_OF,
    SCALE_OF,
    age,
    article,
    counterpart,
    forms,
    inflect,
    level,
    number,
    plural,
    possessive,
    pronoun,
    reflexive,
)
from llamita.text.storyworld_tables import Table, Weights, evenly, falling, mix, only, tabulated

# The event of a story's end, and its chance after each sentence.
END = ""
END_CHANCE = 0.18

TOWN = tuple(place for places in PLACES.values() for place in places)
OUTDOORS = (*TOWN, *(place for places in WILDS.values() for place in places))


def articles(nouns: Mapping[str, float]) -> Weights:
    """The weight of `a` and of `an`: that of the nouns which take it."""
    weights: Weights = {}
    for noun, weight in nouns.items():
        weights[article(noun)] = weights.get(article(noun), 0.0) + weight
    return weights


def taking(indefinite: str, nouns: Mapping[str, float]) -> Weights:
    """The nouns that take this article, `a` or `an`, with their weights."""
    return {noun: weight for noun, weight in nouns.items() if article(noun) == indefinite}


class Chances:
    """What can come next, by what the words so far say; an empty word stands for what they don't say.

    Capitals in an example are the word that comes.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)

        def fame(words: Iterable[str], start: int) -> Weights:
            order = list(words)
            rng.shuffle(order)
            return {word: 1 / (start + rank) for rank, word in enumerate(order)}

        roles = [person.male for person in PERSONS]
        lands = [land.name for land in LANDS]
        self._fame = fame(roles, 4) | fame((animal.grown for animal in ANIMALS), 4) | fame(lands, 4)
        self._names = {gender: fame(names, 10) for gender, names in NAMES.items()}
        self._folk = {land: fame(roles, 3) for land in lands}
        self._turn: dict[str, int] = {}
        for cls in THINGS:
            peers = [person for person in PERSONS if person.cls == cls]
            rng.shuffle(peers)
            # Next to each other, those of an age differ in lists of any length.
            peers.sort(key=lambda person: person.age)
            self._turn |= {person.male: turn for turn, person in enumerate(peers)}

    def _favourites(self, noun: str, words: tuple[str, ...]) -> Weights:
        """Words of a class; each of its roles has another favourite."""
        return falling(words, 4, start=self._turn[forms(noun)[0]])

    # Who.

    def _persons(self, many: bool) -> Weights:
        return {person[:4][i + 2 * many]: self._fame[person.male] for person in PERSONS for i in (0, 1)}

    def _animals(self, many: bool) -> Weights:
        return {animal[:4][i + 2 * many]: self._fame[animal.grown] for animal in ANIMALS for i in (0, 1)}

    def _friends(self, noun: str, many: bool) -> Weights:
        others = self._persons(many).items()
        return {n: w * (6 if KNOWN[n].gender == KNOWN[noun].gender else 1) for n, w in others if n != noun}

    def _heroes(self, many: bool) -> Weights:
        adjectives = {land.language: self._fame[land.name] for land in LANDS}
        return mix((0.2, adjectives), (0.8, self._persons(many)))

    def _kinds(self, hero: str, many: bool) -> Weights:
        persons = {n: w for n, w in self._persons(many).items() if KNOWN[n].cls != "common"}
        own = {n: w for n, w in persons.items() if n == number(hero, many)} or persons
        return mix((0.2, own), (0.45, persons), (0.35, self._animals(many)))

    @cached_property
    def hero_article(self) -> Table:
        """there was A king: the article of a single hero, or of the adjective of a land."""
        return Table(articles(self._heroes(False)))

    @tabulated
    def hero(self, before: str) -> Weights:
        """Whom a story is about, or the adjective of a land; before it stands `a`, `an` or `two`."""
        return self._heroes(True) if before == "two" else taking(before, self._heroes(False))

    @tabulated
    def native(self, before: str, land: str) -> Weights:
        """an arvian KING: a hero after `a`, `an` or `two` and the adjective of a land, by who is common there."""
        return {n: w * self._folk[land][forms(n)[0]] for n, w in self._persons(before == "two").items()}

    @tabulated
    def name(self, hero: str, other: str) -> Weights:
        """named TOM and HUGO: a name of the gender of the hero, but not the other one that was given."""
        return {name: w for name, w in self._names[KNOWN[hero].gender or ""].items() if name != other}

    @cached_property
    def pet(self) -> Table:
        """had a DOG: one animal of a kind that is kept."""
        return Table({n: w for n, w in self._animals(False).items() if forms(n)[0] in PETS})

    @tabulated
    def animal(self, indefinite: str) -> Weights:
        """sees an EAGLE: one animal that takes the article."""
        return taking(indefinite, self._animals(False))

    @tabulated
    def kind(self, before: str, hero: str) -> Weights:
        """Of whom something holds in general; before it stands `a`, `an` or `all`."""
        return self._kinds(hero, True) if before == "all" else taking(before, self._kinds(hero, False))

    @tabulated
    def cast(self, hero: str) -> Weights:
        """Whom `the` leads to at the start of a sentence."""
        others = mix((0.4, self._persons(False)), (0.6, self._persons(True)))
        animals = mix((0.6, self._animals(False)), (0.4, self._animals(True)))
        return mix((0.78, only(hero)), (0.05, others), (0.17, animals))

    @tabulated
    def crowd(self, hero: str) -> Weights:
        """many KINGS: those of whom there are `many` or `two` at the start of a sentence."""
        return mix((0.15, only(number(hero, True))), (0.35, self._persons(True)), (0.5, self._animals(True)))

    @tabulated
    def companion(self, noun: str, determiner: str) -> Weights:
        """A person someone has to do with; one says `the man`, but not `his man`."""
        friends = mix((0.75, self._friends(noun, False)), (0.25, self._friends(noun, True)))
        return {n: w for n, w in friends.items() if determiner == "the" or KNOWN[n].cls != "common"}

    @tabulated
    def beloved(self, noun: str, pet: str) -> Weights:
        """loves his DOG: an animal loves its food and its young, whoever has a pet that above all."""
        if noun in ANIMAL_OF:
            food = ANIMAL_OF[noun].food
            return only(food) if KNOWN[noun].young else {food: 0.3, counterpart(noun): 0.7}
        friends = {n: w for n, w in self._friends(noun, plural(noun)).items() if KNOWN[n].cls != "common"}
        anyone = mix((0.45, self._animals(plural(noun))), (0.55, friends))
        return mix((0.6, only(pet)), (0.4, anyone)) if pet else anyone

    # What they do.

    def _deeds(self, noun: str, tense: str) -> Weights:
        peers = evenly(HABITS[age(noun)])
        if noun in ANIMAL_OF:
            sound, own = only(ANIMAL_OF[noun].sound), evenly(HABITS["animal"])
            deeds = mix((0.24, sound), (0.24, own), (0.4, peers), (0.12, evenly(HABITS["any"])))
        else:
            # The same verbs, but from the other end: the genders differ in what they do, too.
            step = 1 if KNOWN[noun].gender == "male" else -1
            anyone, social = (falling(HABITS[habit][::step], 2) for habit in ("any", "social"))
            own = self._favourites(noun, HABITS[KNOWN[noun].cls or ""])
            deeds = mix((0.34, own), (0.08, peers), (0.2, anyone), (0.38, social))
        return {inflect(verb, noun, tense): weight for verb, weight in deeds.items()}

    @tabulated
    def deed(self, noun: str) -> Weights:
        """is a man who PLAYS: a verb in the present."""
        return self._deeds(noun, "present")

    @tabulated
    def memory(self, hero: str) -> Weights:
        """a king who HAD a dog, or LOVED his dog: a verb in the past."""
        return mix((0.3, only("had")), (0.7, self._deeds(hero, "past")))

    @tabulated
    def predicate(self, noun: str, tense: str) -> Weights:
        """the king IS brave, or PLAYS: a verb in the tense, or a form of `be`."""
        be = 0.36 if noun in ANIMAL_OF else 0.27
        return mix((be, only(inflect("be", noun, tense))), (1 - be, self._deeds(noun, tense)))

    # What follows the verb.

    @tabulated
    def determiner(self, noun: str) -> Weights:
        """plays with HIS ball: an owner, or less often `the`."""
        return {possessive(noun): 0.75, "the": 0.25}

    @tabulated
    def distant_determiner(self, noun: str) -> Weights:
        """fights THE duke: `the`, or less often an owner."""
        return {possessive(noun): 0.25, "the": 0.75}

    @tabulated
    def helped(self, noun: str) -> Weights:
        """helps HIS mother, or HIMSELF: an owner, `the`, or the subject itself."""
        return {possessive(noun): 0.45, "the": 0.35, reflexive(noun): 0.2}

    @tabulated
    def seen(self, noun: str) -> Weights:
        """sees AN eagle, or HIS ball: the article of an animal, or the owner of a thing."""
        return mix((0.45, articles(self._animals(False))), (0.55, {possessive(noun): 0.5, "the": 0.5}))

    @tabulated
    def thing(self, verb: str, noun: str) -> Weights:
        """What a verb is done to: what suits it and, if anyone may do it, what the subject cares for."""
        suitable = evenly(thing for thing in OBJECTS[verb] if thing != noun)
        if noun in ANIMAL_OF:
            own = only(ANIMAL_OF[noun].food)
            return mix((0.5, own), (0.5, suitable)) if verb not in HABITS[age(noun)] else suitable
        own = self._favourites(noun, THINGS[KNOWN[noun].cls or ""])
        return mix((0.5, own), (0.5, suitable)) if verb in (*HABITS["any"], "see") else suitable

    @cached_property
    def dish(self) -> Table:
        """helps himself to the SOUP: what is served."""
        return Table(evenly(OBJECTS["serve"]))

    @tabulated
    def place(self, noun: str) -> Weights:
        """in the GARDEN: where a noun is or goes to; for an animal above all its haunt."""
        if noun in PERSON_OF:
            # As with verbs, the genders go to the places that anybody goes to from opposite ends.
            anywhere = falling(TOWN[:: 1 if KNOWN[noun].gender == "male" else -1], 2)
            return mix((0.65, self._favourites(noun, PLACES[KNOWN[noun].cls or ""])), (0.35, anywhere))
        species = ANIMAL_OF[noun]
        return mix((0.5, only(species.haunt)), (0.3, evenly(WILDS[species.taxon])), (0.2, evenly(OUTDOORS)))

    def _clothes(self, noun: str) -> Weights:
        gender = KNOWN[noun].gender
        wardrobe = (*CLOTHES[f"{gender}"], *CLOTHES.get(f"{gender}_{age(noun)}", ()))
        return evenly(wardrobe[plural(noun) :: 2])

    @tabulated
    def outfit(self, noun: str) -> Weights:
        """What follows `wear`: an owner or an article, finery, or the clothes of several."""
        plain: Weights = {"a": 1.0, possessive(noun): 1.0}
        if plural(noun):
            plain = mix((0.5, only("their")), (0.5, self._clothes(noun)))
        return mix((0.6, plain), (0.4, only(FINERY[KNOWN[noun].gender or ""])))

    @tabulated
    def garment(self, noun: str) -> Weights:
        """wears a TIE: clothes by gender and age; plural if several wear them."""
        return self._clothes(noun)

    @tabulated
    def look(self, noun: str, other: str) -> Weights:
        """is BRAVE and KIND: an adjective by gender and age, but not the other one that was given."""
        parts = (0.1, "any"), (0.2, age(noun)), (0.7, KNOWN[noun].gender or "")
        looks = mix(*((share, evenly(LOOKS[whose])) for share, whose in parts))
        return {look: weight for look, weight in looks.items() if look != other}

    # What animals are like.

    def _degrees(self, animal: str, degree: int) -> Weights:
        """The adjectives that suit an animal; from the middle of a scale none does."""
        levels = {scale: level(animal, scale) for scale in SCALES}
        return evenly(SCALES[scale][x > 4][degree] for scale, x in levels.items() if x not in (4, 5))

    def _lesser(self, animal: str, comparative: str) -> Weights:
        """Than whom an animal is bigger, smaller, faster ..."""
        scale, high = SCALE_OF[comparative]
        sign = 1 if high else -1
        others = self._animals(plural(animal)).items()
        return {n: w for n, w in others if sign * level(n, scale) < sign * level(animal, scale)}

    def _classes(self, animal: str) -> Weights:
        taxon, any_taxon = ANIMAL_OF[animal].taxon, "animal"
        if plural(animal):
            taxon, any_taxon = TAXA[taxon], TAXA[any_taxon]
        return only("young") if KNOWN[animal].young else {taxon: 0.8, any_taxon: 0.2}

    @tabulated
    def quality(self, animal: str, generic: bool) -> Weights:
        """What follows `is` or `are` after an animal, or after such animals in general."""
        plain = mix((0.75, self._degrees(animal, 0)), (0.25, evenly(LOOKS[age(animal)])))
        compared = {w: x for w, x in self._degrees(animal, 1).items() if self._lesser(animal, w)}
        if not generic:
            return mix((0.36, plain), (0.36, compared), (0.28, only("the")))
        classes = self._classes(animal) if plural(animal) else articles(self._classes(animal))
        return mix((0.25, plain), (0.35, compared), (0.4, classes))

    @tabulated
    def superlative(self, animal: str) -> Weights:
        """the FASTEST animal: the high or low end of a scale, wherever the animal stands near it."""
        return self._degrees(animal, 2)

    @tabulated
    def animal_class(self, animal: str, indefinite: str) -> Weights:
        """is a MAMMAL, or a YOUNG dog: a class of an animal that takes the article."""
        return taking(indefinite, self._classes(animal))

    @tabulated
    def lesser_article(self, animal: str, comparative: str) -> Weights:
        """faster than A hen: the article of an animal of which the comparison is true."""
        return articles(self._lesser(animal, comparative))

    @tabulated
    def lesser(self, animal: str, comparative: str, indefinite: str) -> Weights:
        """faster than a HEN: an animal of which that is true and which takes the article, if one is given."""
        lesser = self._lesser(animal, comparative)
        return taking(indefinite, lesser) if indefinite else lesser

    # Lands.

    def _countries(self, home: str) -> Weights:
        shares = [(place, land, share) for land in LANDS for place, share in ((land.name, 0.6), (land.capital, 0.4))]
        everywhere = {place: self._fame[land.name] * share for place, land, share in shares}
        return mix((0.5, {home: 0.6, LAND_OF[home].capital: 0.4}), (0.5, everywhere)) if home else everywhere

    @tabulated
    def origin(self, hero: str) -> Weights:
        """a king from ARVIA: a land or a capital where those like the hero are common."""
        return {n: w * self._folk[LAND_OF[n].name][forms(hero)[0]] for n, w in self._countries("").items()}

    @tabulated
    def country(self, home: str) -> Weights:
        """people in ARVIA: a land or a capital, often the home or its capital."""
        return self._countries(home)

    @tabulated
    def land(self, home: str) -> Weights:
        """in ARVIA the capital is tolem: a land, often the home."""
        lands = {land.name: self._fame[land.name] for land in LANDS}
        return mix((0.3, only(home)), (0.7, lands)) if home else lands

    @tabulated
    def destination(self, home: str) -> Weights:
        """goes to THE tavern, or to TOLEM: `the` of a place, or a land or a capital."""
        return mix((0.4, only("the")), (0.6, self._countries(home)))

    @tabulated
    def language(self, home: str) -> Weights:
        """speaks ARVIAN: a language, above all that of the home."""
        languages = {land.language: self._fame[land.name] for land in LANDS}
        return mix((0.85, only(LAND_OF[home].language)), (0.15, languages)) if home else languages

    def _goods(self, country: str) -> Weights:
        return mix((0.7, only(LAND_OF[country].good)), (0.3, evenly(land.good for land in LANDS)))

    @tabulated
    def ware(self, country: str) -> Weights:
        """sell ARVIAN silk, or SILK: the adjective of a country, or a good."""
        return mix((0.6, only(LAND_OF[country].language)), (0.4, self._goods(country)))

    @tabulated
    def good(self, country: str) -> Weights:
        """sell arvian SILK: above all the good that a country is known for."""
        return self._goods(country)

    @cached_property
    def ruler(self) -> Table:
        """love their QUEEN: one person who is royal."""
        return Table({n: w for n, w in self._persons(False).items() if KNOWN[n].cls == "royal"})

    # Sentences.

    def _subjects(self, hero: str, names: tuple[str, ...], has_pet: bool) -> Weights:
        # Pronouns ask what a noun means; after "the" it would be enough to repeat the noun.
        subjects = {pronoun(hero): 9.0, "the": 5.5, "many": 1.0, "two": 0.7}
        subjects |= {name: 1.0 / len(names) for name in names}
        return subjects | {possessive(hero): 1.5} if has_pet else subjects

    @tabulated
    def subject(self, hero: str, names: tuple[str, ...], has_pet: bool) -> Weights:
        """yesterday HE played: the first word of someone, after a word that says when."""
        return self._subjects(hero, names, has_pet)

    @tabulated
    def opener(self, hero: str, names: tuple[str, ...], has_pet: bool) -> Weights:
        """The first word of the next sentence, or the story's end."""
        frames = {"yesterday": 2.1, "one": 1.2, "tomorrow": 2.1, "all": 1.4, "people": 1.9, "in": 0.4}
        generic = mix((2.0, articles(self._kinds(hero, False))))
        sentences = self._subjects(hero, names, has_pet) | frames | generic
        return mix((END_CHANCE, only(END)), (1 - END_CHANCE, sentences))
