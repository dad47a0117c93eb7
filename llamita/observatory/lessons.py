"""What is to be known of words: families of analogies and properties, from a grammar or from lists."""

from dataclasses import dataclass

from llamita.observatory.word_lists import Analogies
from llamita.text.storyworld import StoryWorld

_EACH_GROUP = 11


@dataclass(frozen=True, slots=True)
class Property:
    """Words that have a property or lack it, each with the lemma that holds its forms together."""

    words: tuple[str, ...]
    labels: tuple[bool, ...]
    lemmas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is to be known: families of analogies, and properties of words."""

    analogies: Analogies
    properties: dict[str, Property]

    @property
    def words(self) -> list[str]:
        """Every word that occurs, once."""
        of_questions = (word for family in self.analogies.values() for words in family for word in words)
        of_properties = (word for known in self.properties.values() for word in known.words)
        return list(dict.fromkeys([*of_questions, *of_properties]))


def story_lessons(world: StoryWorld) -> Lessons:
    """What StoryWorld's grammar makes true of its words."""
    known = world.features()

    def words_with(name: str, value: object) -> Property:
        asked = {word: features for word, features in known.items() if getattr(features, name) is not None}
        labels = tuple(getattr(features, name) == value for features in asked.values())
        return Property(tuple(asked), labels, tuple(features.lemma for features in asked.values()))

    properties = {"animacy": words_with("animate", True), "gender": words_with("gender", "female")}
    return Lessons(
        {name: [*pairs] for name, pairs in world.analogies().items()},
        {**properties, "plural": words_with("plural", True)},
    )


def story_groups(world: StoryWorld) -> dict[str, str]:
    """Some of StoryWorld's nouns, singular, by what they name: words to draw on a map."""
    groups: dict[str, list[str]] = {"men": [], "women": [], "animals": [], "things": [], "places": []}
    for word, known in world.features().items():
        names = {"animal": "animals", "object": "things", "place": "places"}
        group = (
            {"male": "men", "female": "women"}[known.gender or ""] if known.kind == "person" else names.get(known.kind)
        )
        if group is not None and not known.plural and not known.young:
            groups[group].append(word)
    return {
        word: group
        for group, words in groups.items()
        for word in words[:: max(len(words) // _EACH_GROUP, 1)][:_EACH_GROUP]
    }
