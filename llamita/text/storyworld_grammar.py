"""The rules by which StoryWorld tells its stories."""

from collections.abc import Callable, Generator
from typing import NamedTuple

from llamita.text.storyworld_chances import Chances
from llamita.text.storyworld_lexicon import Verb
from llamita.text.storyworld_meaning import (
    ANIMAL_OF,
    LAND_OF,
    PERSON_OF,
    SCALE_OF,
    VERB_OF,
    counterpart,
    everyman,
    number,
    plural,
    possessive,
    pronoun,
    reflexive,
)
from llamita.text.storyworld_tables import Table, Tables, only

# A rule yields distributions and is sent the words drawn from them; it returns what later rules need.
Rule = Generator[Table, str, None]
Choice = Generator[Table, str, str]

TENSES = {"yesterday": "past", "one": "past", "tomorrow": "future"}

# What can follow, and how likely.
AFTER_THERE = Table({"was": 0.75, "were": 0.25})
AFTER_HERO = Table({"from": 0.2, "named": 0.7, "who": 0.1})
AFTER_HOME = Table({"named": 0.75, "who": 0.25})
AFTER_NAME = Table({"who": 0.8, ".": 0.2})
AFTER_KIND = Table({"who": 0.65, ".": 0.35})
AFTER_LOOK = Table({"and": 0.3, ".": 0.7})
AFTER_SOUND = Table({"at": 0.3, "in": 0.25, ".": 0.45})
AFTER_PEOPLE = Table({"speak": 0.4, "sell": 0.45, "love": 0.15})


class Scene(NamedTuple):
    """What a story's first sentence told; empty where it was silent."""

    hero: str
    names: tuple[str, ...]
    home: str
    pet: str


class Clause(NamedTuple):
    """Who does what; home and pet are empty unless they are the hero's."""

    noun: str
    verb: Verb
    home: str = ""
    pet: str = ""


class Grammar(Chances):
    """The rules of a story; each shows what it can come to, with what may be missing in brackets."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._sure = Tables(only)
        self._after_object = Tables(lambda joint: {".": 0.6, joint: 0.4})
        self._complements: dict[str, Callable[[Clause], Rule]] = {
            "fight": self.company,
            "go": self.journey,
            "help": self.help,
            "love": self.love,
            "pray": self.company,
            "see": self.sight,
            "speak": self.speech,
            "wear": self.dress,
        }
        self._complements.update((animal.sound, self.sound) for animal in ANIMAL_OF.values())

    def say(self, *words: str) -> Rule:
        """Words one after another, each of them certain."""
        for word in words:
            yield self._sure[word]

    def story(self) -> Rule:
        """OPENING SENTENCE SENTENCE ... until an opener turns out to be the end."""
        scene = yield from self.opening()
        while True:
            opener = yield self.opener[scene.hero, scene.names, scene.pet != ""]
            yield from self.sentence(opener, scene)

    def opening(self) -> Generator[Table, str, Scene]:
        """once there was a king [from arvia] [named tom] [who had a dog] ."""
        yield from self.say("once", "there")
        before = yield (self._sure["two"] if (yield AFTER_THERE) == "were" else self.hero_article)
        hero = yield self.hero[before]
        home = pet = ""
        names: tuple[str, ...] = ()
        if hero in LAND_OF:
            home = LAND_OF[hero].name
            hero = yield self.native[before, home]
        link = yield (AFTER_HOME if home else AFTER_HERO)
        if link == "from":
            home = LAND_OF[(yield self.origin[hero])].name
            link = yield AFTER_HOME
        if link == "named":
            names = yield from self.naming(hero)
            link = yield AFTER_NAME
        if link == "who":
            pet = yield from self.past(hero, home)
        return Scene(hero, names, home, pet)

    def naming(self, hero: str) -> Generator[Table, str, tuple[str, ...]]:
        """tom | tom and hugo"""
        name = yield self.name[hero, ""]
        if not plural(hero):
            return (name,)
        yield from self.say("and")
        return name, (yield self.name[hero, name])

    def past(self, hero: str, home: str) -> Choice:
        """had a dog . | loved his dog ."""
        verb = yield self.memory[hero]
        if verb != "had":
            yield from self.complement(Clause(hero, VERB_OF[verb], home))
            return ""
        yield from self.say("a")
        pet = yield self.pet
        yield from self.say(".")
        return pet

    def sentence(self, opener: str, scene: Scene) -> Rule:
        """[yesterday | one day | tomorrow] SOMEONE HAPPENING | a king DEFINITION | people in arvia CUSTOM"""
        if opener in ("a", "an", "all"):
            yield from self.definition((yield self.kind[opener, scene.hero]))
        elif opener == "in":
            land = yield self.land[scene.home]
            yield from self.say("the", "capital", "is", LAND_OF[land].capital, ".")
        elif opener == "people":
            yield from self.say("in")
            yield from self.custom((yield self.country[scene.home]))
        else:
            tense = TENSES.get(opener, "present")
            if opener == "one":
                yield from self.say("day")
            start = opener
            if tense != "present":
                start = yield self.subject[scene.hero, scene.names, scene.pet != ""]
            yield from self.happening((yield from self.someone(start, scene)), tense, scene)

    def someone(self, start: str, scene: Scene) -> Choice:
        """he | tom | his PET | the CAST | many CROWD"""
        if start == "the":
            return (yield self.cast[scene.hero])
        if start in ("many", "two"):
            return (yield self.crowd[scene.hero])
        if start == possessive(scene.hero):
            yield from self.say(scene.pet)
            return scene.pet
        return scene.hero if start == pronoun(scene.hero) else number(scene.hero, False)

    def happening(self, noun: str, tense: str, scene: Scene) -> Rule:
        """[will] VERB COMPLEMENT | is brave [and kind] . | is NATURE"""
        if tense == "future":
            yield from self.say("will")
        word = yield self.predicate[noun, tense]
        if word in VERB_OF:
            is_hero = noun in (scene.hero, number(scene.hero, False))
            home, pet = (scene.home, scene.pet) if is_hero else ("", "")
            yield from self.complement(Clause(noun, VERB_OF[word], home, pet))
        elif noun in PERSON_OF:
            yield from self.appearance(noun)
        else:
            yield from self.nature((yield self.quality[noun, False]), noun)

    def complement(self, clause: Clause) -> Rule:
        """What the verb asks for."""
        if clause.verb.particle:
            yield from self.say(clause.verb.particle)
        yield from self._complements.get(clause.verb.base, self.action)(clause)

    def action(self, clause: Clause) -> Rule:
        """plays with his ball [in the garden] ."""
        yield self.determiner[clause.noun]
        yield self.thing[clause.verb.base, clause.noun]
        yield from self.setting(clause)

    def setting(self, clause: Clause) -> Rule:
        """[in the garden] ."""
        if (yield self._after_object[clause.verb.joint]) != ".":
            yield from self.somewhere(clause.noun)

    def somewhere(self, noun: str) -> Rule:
        """the garden ."""
        yield from self.say("the")
        yield self.place[noun]
        yield from self.say(".")

    def sight(self, clause: Clause) -> Rule:
        """sees an eagle [in the field] ."""
        determiner = yield self.seen[clause.noun]
        if determiner in ("a", "an"):
            yield self.animal[determiner]
        else:
            yield self.thing["see", clause.noun]
        yield from self.setting(clause)

    def company(self, clause: Clause) -> Rule:
        """fights the duke . | prays for his king ."""
        yield self.companion[clause.noun, (yield self.distant_determiner[clause.noun])]
        yield from self.say(".")

    def help(self, clause: Clause) -> Rule:
        """helps his mother . | helps himself to the soup ."""
        determiner = yield self.helped[clause.noun]
        if determiner == reflexive(clause.noun):
            yield from self.say("to", "the")
            yield self.dish
        else:
            yield self.companion[clause.noun, determiner]
        yield from self.say(".")

    def love(self, clause: Clause) -> Rule:
        """loves his dog ."""
        yield self.determiner[clause.noun]
        yield self.beloved[clause.noun, clause.pet]
        yield from self.say(".")

    def dress(self, clause: Clause) -> Rule:
        """wears a tie . | wears armour . | wear [their] ties ."""
        word = yield self.outfit[clause.noun]
        if word in ("a", possessive(clause.noun)):
            yield self.garment[clause.noun]
        yield from self.say(".")

    def journey(self, clause: Clause) -> Rule:
        """goes to the tavern . | goes to tolem ."""
        if (yield self.destination[clause.home]) == "the":
            yield self.place[clause.noun]
        yield from self.say(".")

    def speech(self, clause: Clause) -> Rule:
        """speaks arvian ."""
        yield self.language[clause.home]
        yield from self.say(".")

    def sound(self, clause: Clause) -> Rule:
        """barks [in the barn | at the waiter] ."""
        link = yield AFTER_SOUND
        if link == "in":
            yield from self.somewhere(clause.noun)
        elif link == "at":
            yield from self.say("the")
            yield self.companion[clause.noun, "the"]
            yield from self.say(".")

    def appearance(self, noun: str) -> Rule:
        """brave [and kind] ."""
        look = yield self.look[noun, ""]
        if (yield AFTER_LOOK) == "and":
            yield self.look[noun, look]
            yield from self.say(".")

    def nature(self, word: str, animal: str) -> Rule:
        """fast . | faster than a hen . | the fastest animal in the village ."""
        if word == "the":
            yield self.superlative[animal]
            yield from self.say("animals" if plural(animal) else "animal", "in")
            yield from self.somewhere(animal)
            return
        if word in SCALE_OF:
            yield from self.say("than")
            indefinite = "" if plural(animal) else (yield self.lesser_article[animal, word])
            yield self.lesser[animal, word, indefinite]
        yield from self.say(".")

    def definition(self, noun: str) -> Rule:
        """is a man [who VERB COMPLEMENT] . | are young dogs . | is a mammal . | is NATURE"""
        yield from self.say("are" if plural(noun) else "is")
        if noun in PERSON_OF:
            yield from self.say(*([] if plural(noun) else ["a"]), everyman(noun))
            if (yield AFTER_KIND) == "who":
                yield from self.complement(Clause(noun, VERB_OF[(yield self.deed[noun])]))
            return
        word = yield self.quality[noun, True]
        if word in ("a", "an"):
            word = yield self.animal_class[noun, word]
        if word == "young":
            yield from self.say(counterpart(noun))
        yield from self.nature(word, noun)

    def custom(self, country: str) -> Rule:
        """speak arvian . | love their queen . | sell [arvian] silk ."""
        verb = yield AFTER_PEOPLE
        if verb == "speak":
            yield from self.say(LAND_OF[country].language)
        elif verb == "love":
            yield from self.say("their")
            yield self.ruler
        elif (yield self.ware[country]) == LAND_OF[country].language:
            yield self.good[country]
        yield from self.say(".")
