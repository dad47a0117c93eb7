"""StoryWorld: what it says of its own chances is exact, what it tells is true, and what it writes is English."""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from llamita.errors import UserError
from llamita.text.storyworld import Story, StoryWorld, floor
from llamita.text.storyworld_lexicon import ANIMALS, LANDS, SCALES, VERBS
from llamita.text.storyworld_meaning import ANIMAL_OF, KNOWN, PERSON_OF, SCALE_OF, level

VOWELS = tuple("aeiou")
SUBJECTS = PERSON_OF | ANIMAL_OF


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(seed=0)


@pytest.fixture(scope="module")
def stories(world: StoryWorld) -> list[Story]:
    return list(world.stories(10_000, seed=1))


@pytest.fixture(scope="module")
def sentences(stories: list[Story]) -> list[list[str]]:
    return [words(sentence) for story in stories for sentence in story.text.split(" .") if sentence]


def words(text: str) -> list[str]:
    return text.split()


def found(sentences: list[list[str]], *pattern: str | None) -> Iterator[list[str]]:
    """The runs of words in which each word is the pattern's, or any where the pattern has None."""
    for sentence in sentences:
        for start in range(len(sentence) - len(pattern) + 1):
            run = sentence[start : start + len(pattern)]
            if all(wanted in (None, word) for wanted, word in zip(pattern, run, strict=True)):
                yield run


def subject_of(sentence: list[str]) -> str | None:
    """The noun that a sentence starts with, after its time, its article or its number."""
    at = {"yesterday": 1, "tomorrow": 1, "one": 2}.get(sentence[0], 0)
    determined = sentence[at] in ("the", "many", "two", "his", "her", "their")
    return sentence[at + 1] if determined else None


# Exactness.


@pytest.mark.parametrize("seed", [0, 1])
def test_recorded_surprisal_is_that_of_the_distribution_given_the_words_alone(seed: int) -> None:
    world = StoryWorld(seed)
    for story in world.stories(40, seed=2):
        for i, word in enumerate([*story.words, None]):
            following = world.next_word_distribution(story.words[:i])
            assert -math.log(following[word]) == pytest.approx(story.surprisal[i], abs=1e-12)
            assert math.fsum(following.values()) == pytest.approx(1, abs=1e-12)
            entropy = -math.fsum(p * math.log(p) for p in following.values())
            assert entropy == pytest.approx(story.entropy[i], abs=1e-12)


def test_what_a_world_told_before_changes_no_distribution(world: StoryWorld, stories: list[Story]) -> None:
    fresh = StoryWorld(seed=0)
    for story in reversed(stories[:30]):
        assert fresh.next_word_distribution(story.words) == world.next_word_distribution(story.words)


def test_first_words_are_as_frequent_as_the_distribution_says(world: StoryWorld, stories: list[Story]) -> None:
    for context in (
        ("once", "there", "was"),
        ("once", "there", "was", "a"),
        ("once", "there", "were", "two"),
    ):
        size = len(context)
        counts = Counter(story.words[size] for story in stories if story.words[:size] == context)
        total = sum(counts.values())
        following = world.next_word_distribution(context)
        assert counts.keys() <= following.keys()
        chi_square = sum((counts[word] - total * p) ** 2 / (total * p) for word, p in following.items())
        freedom = len(following) - 1
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_stories_end_as_often_as_the_distribution_says(world: StoryWorld, stories: list[Story]) -> None:
    stops = sum(story.words.count(".") for story in stories)
    chance = world.next_word_distribution(words("once there was a king named tom ."))[None]
    assert len(stories) / stops == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / stops))


def test_the_end_is_as_likely_after_every_stop_and_impossible_elsewhere(
    world: StoryWorld, stories: list[Story]
) -> None:
    chances = set()
    for story in stories[:30]:
        for i in range(1, len(story.words) + 1):
            end = world.next_word_distribution(story.words[:i]).get(None)
            assert (end is not None) == (story.words[i - 1] == ".")
            chances.add(round(end, 12) if end else None)
    assert len(chances - {None}) == 1


def test_mean_surprisal_and_mean_entropy_agree(stories: list[Story]) -> None:
    events = sum(len(story.entropy) for story in stories)
    differences = [sum(story.surprisal) - sum(story.entropy) for story in stories]
    spread = math.sqrt(sum(d * d for d in differences))
    assert abs(sum(differences)) < 4 * spread
    assert spread / events < 0.005


@pytest.mark.parametrize("seed", range(4))
def test_floor_lies_where_it_was_meant_to(seed: int) -> None:
    assert 1.1 < floor(StoryWorld(seed).stories(400, seed=4)) < 1.6


def test_floor_counts_every_event_and_the_end() -> None:
    told = [Story(("a", "."), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0)), Story((".",), (0.0, 0.0), (0.0, 0.0))]
    assert floor(told) == 6 / 5


# Shape.


def test_a_story_has_one_price_a_word_and_one_for_its_end(stories: list[Story]) -> None:
    for story in stories:
        assert len(story.surprisal) == len(story.entropy) == len(story.words) + 1
        assert story.words[:2] == ("once", "there")
        assert story.words[-1] == "."
        assert story.text.split(" ") == list(story.words)
        assert story.text == story.text.lower()


def test_stories_are_short_but_not_too_short(stories: list[Story]) -> None:
    lengths = [len(story.words) for story in stories]
    assert 40 < sum(lengths) / len(lengths) < 60
    assert sum(length > 255 for length in lengths) / len(lengths) < 0.001


def test_vocabulary_is_what_stories_are_made_of(world: StoryWorld, stories: list[Story]) -> None:
    assert {word for story in stories for word in story.words} == set(world.vocabulary)
    assert list(world.vocabulary) == sorted(set(world.vocabulary))
    assert 430 <= len(world.vocabulary) <= 520


def test_a_seed_tells_the_same_stories_everywhere(world: StoryWorld, stories: list[Story]) -> None:
    assert [story.words for story in StoryWorld(0).stories(50, seed=1)] == [story.words for story in stories[:50]]
    rng = random.Random(1)
    assert world.story(rng) == stories[0]
    text = "\n".join(story.text for story in stories[:200])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dc8f80862e141341"


def test_seeds_differ(stories: list[Story]) -> None:
    assert next(StoryWorld(0).stories(1, seed=2)) != stories[0]
    assert next(StoryWorld(1).stories(1, seed=1)).surprisal != stories[0].surprisal


def test_a_story_that_nobody_tells_is_an_error_that_shows_what_could_be_told(world: StoryWorld) -> None:
    with pytest.raises(UserError, match=r"'once upon'.*there"):
        world.next_word_distribution(["once", "upon"])
    with pytest.raises(UserError, match="king named anna"):
        world.next_word_distribution(words("once there was a king named anna"))


def test_the_king_loves_his_dog(world: StoryWorld) -> None:
    told = words("once there was a king named tom who had a dog . the king loves his dog .")
    assert world.next_word_distribution(told)[None] > 0
    assert world.next_word_distribution(told[:-2])["dog"] > 0.5


# English.


def test_an_stands_before_vowels_and_a_before_consonants(sentences: list[list[str]]) -> None:
    for article in ("a", "an"):
        nouns = {noun for _, noun in found(sentences, article, None)}
        assert len(nouns) > 3
        assert {noun.startswith(VOWELS) for noun in nouns} == {article == "an"}


def test_verbs_agree_with_their_subjects(sentences: list[list[str]]) -> None:
    base, third, past = ({verb[form] for verb in VERBS} for form in range(3))
    checked = 0
    for sentence in sentences:
        noun = subject_of(sentence)
        if noun not in SUBJECTS:
            continue
        following = sentence[sentence.index(noun) + 1 :]
        several = bool(KNOWN[noun].plural)
        if sentence[0] in ("yesterday", "one"):
            assert following[0] in past | {("was", "were")[several]}
        elif sentence[0] == "tomorrow":
            assert following[0] == "will"
            assert following[1] in base | {"be"}
        else:
            assert following[0] in ((third | {"is"}), (base | {"are"}))[several]
        checked += 1
    assert checked > 10_000


def test_possessives_and_reflexives_agree_with_the_subject(sentences: list[list[str]]) -> None:
    own = {
        "male": {"his", "himself"},
        "female": {"her", "herself"},
        None: {"its"},
        "several": {"their", "themselves"},
    }
    pronouns = {"he": "male", "she": "female", "they": "several"}
    everyone = set().union(*own.values())
    used_by = {owner: Counter() for owner in own}
    for sentence in sentences:
        start = sentence[{"yesterday": 1, "tomorrow": 1, "one": 2}.get(sentence[0], 0)]
        noun = subject_of(sentence)
        if noun in SUBJECTS:
            owner = "several" if KNOWN[noun].plural else KNOWN[noun].gender
        elif start in pronouns or KNOWN[start].kind == "name":
            owner = pronouns.get(start, KNOWN[start].gender)
        else:
            continue
        used_by[owner].update(everyone & set(sentence[sentence.index(noun or start) :]))
    for owner, used in used_by.items():
        assert used.keys() == own[owner]


def test_pronouns_and_names_agree_with_the_hero(stories: list[Story]) -> None:
    met: set[str] = set()
    for story in stories[:5000]:
        hero = next(word for word in story.words if word in PERSON_OF)
        known = KNOWN[hero]
        allowed = {"they"} if known.plural else {{"male": "he", "female": "she"}[known.gender]}
        used = {"he", "she", "they"} & set(story.words)
        assert used <= allowed
        met |= used
        names = {word for word in story.words if KNOWN[word].kind == "name"}
        assert {KNOWN[name].gender for name in names} <= {known.gender}
        assert len(names) in ((0, 1), (0, 2))[bool(known.plural)]
    assert met == {"he", "she", "they"}


def test_only_a_pet_that_was_brought_in_is_spoken_of_later(stories: list[Story]) -> None:
    again = 0
    for story in stories:
        owned = {
            pet for had, _, pet in zip(story.words, story.words[1:], story.words[2:], strict=False) if had == "had"
        }
        later = [words(sentence) for sentence in story.text.split(" . ")[1:]]
        spoken_of = {sentence[1] for sentence in later if sentence[0] in ("his", "her", "their")}
        assert spoken_of <= owned
        again += len(spoken_of)
    assert again > 100


# Truth.


def test_comparisons_are_true(sentences: list[list[str]]) -> None:
    compared = 0
    for sentence in sentences:
        if "than" in sentence:
            one, other = (word for word in sentence if word in ANIMAL_OF)
            scale, high = SCALE_OF[sentence[sentence.index("than") - 1]]
            difference = level(one, scale) - level(other, scale)
            assert difference > 0 if high else difference < 0
            assert KNOWN[one].plural == KNOWN[other].plural
            compared += 1
    assert compared > 500


def test_young_animals_have_less_of_everything() -> None:
    assert all(level(animal.young, scale) < level(animal.grown, scale) for animal in ANIMALS for scale in SCALES)
    assert KNOWN["whelps"].size == level("whelp", "size") < KNOWN["seals"].size


def test_capitals_and_languages_belong_to_their_lands(sentences: list[list[str]]) -> None:
    capitals = list(found(sentences, "in", None, "the", "capital", "is", None))
    assert {(run[1], run[-1]) for run in capitals} == {(land.name, land.capital) for land in LANDS}
    spoken = list(found(sentences, "people", "in", None, "speak", None))
    assert {(run[2], run[-1]) for run in spoken} == {(place, land.language) for land in LANDS for place in land[:2]}


def test_definitions_are_true(sentences: list[list[str]]) -> None:
    persons = animals = 0
    for sentence in sentences:
        if sentence[0] in ("a", "an", "all") and sentence[1] in PERSON_OF:
            noun, kind = sentence[1], sentence[3 if sentence[0] == "all" else 4]
            same = ("gender", "plural", "young")
            assert [getattr(KNOWN[noun], f) for f in same] == [getattr(KNOWN[kind], f) for f in same]
            persons += 1
        elif sentence[0] in ("a", "an", "all") and "young" in sentence:
            assert ANIMAL_OF[sentence[1]] == ANIMAL_OF[sentence[-1]]
            assert KNOWN[sentence[1]].young
            assert not KNOWN[sentence[-1]].young
            animals += 1
    assert min(persons, animals) > 100


# Meaning.


def test_features_know_every_word(world: StoryWorld) -> None:
    known = world.features()
    assert known.keys() == set(world.vocabulary)
    assert (known["queens"].gender, known["queens"].plural, known["queens"].cls) == ("female", True, "royal")
    assert known["puppy"].young and known["puppy"].size < known["dog"].size
    assert known["crown"].animate is False and known["tadpole"].animate is True and known["rules"].animate is None
    assert {known[word].lemma for word in ("go", "goes", "went")} == {"go"}


def test_analogies_pair_words_that_differ_in_one_thing(world: StoryWorld) -> None:
    known, families = world.features(), world.analogies()
    for pairs in families.values():
        assert len(pairs) >= 4
        assert {word for pair in pairs for word in pair} <= known.keys()
        assert len({b for _, b in pairs}) == len(pairs)
    for a, b in families["gender"] + families["gender_plural"]:
        assert (known[a].gender, known[b].gender) == ("male", "female")
        assert (known[a].cls, known[a].plural, known[a].young) == (
            known[b].cls,
            known[b].plural,
            known[b].young,
        )
    for a, b in families["number_person"] + families["number_animal"]:
        assert (known[a].plural, known[b].plural, known[a].lemma) == (False, True, known[b].lemma)
    assert ("arvia", "tolem") in families["capital"]
    assert ("go", "goes") in families["third_person"]
    assert ("goes", "went") in families["past"]
    assert ("big", "bigger") in families["comparative"]
