import hashlib
import math
import random
from collections import Counter

import pytest

from llamita.errors import UserError
from llamita.text.storyworld import Story, StoryWorld, floor

# The first digits of the SHA-256 of fifty stories: another world would need other figures everywhere.
GOLDEN = "381007471e14d84d"


@pytest.fixture(scope="module")
def world() -> StoryWorld:
    return StoryWorld(0)


@pytest.fixture(scope="module")
def stories(world: StoryWorld) -> list[Story]:
    return list(world.stories(4000, seed=11))


def test_recorded_surprisals_are_those_of_the_distribution_that_the_words_alone_give(
    world: StoryWorld, stories: list[Story]
) -> None:
    rng = random.Random(0)
    for story in rng.sample(stories, 150):
        place = rng.randrange(len(story.words) + 1)
        chances = world.next_word_distribution(story.words[:place])
        event = story.words[place] if place < len(story.words) else None
        assert -math.log(chances[event]) == pytest.approx(story.surprisal[place], abs=1e-12)
        assert math.fsum(chances.values()) == pytest.approx(1.0, abs=1e-12)
        entropy = -math.fsum(p * math.log(p) for p in chances.values() if p)
        assert entropy == pytest.approx(story.entropy[place], abs=1e-12)


def test_words_are_drawn_as_often_as_the_distribution_says(world: StoryWorld, stories: list[Story]) -> None:
    for context in (("once", "there"), ("once", "there", "was"), ("once", "there", "were", "two")):
        chances = world.next_word_distribution(context)
        counts = Counter(s.words[len(context)] for s in stories if s.words[: len(context)] == context)
        total = sum(counts.values())
        assert total > 500
        for word, chance in chances.items():
            assert word is not None
            expected, deviation = total * chance, math.sqrt(total * chance * (1 - chance))
            assert abs(counts[word] - expected) < 5 * deviation + 1, word


def test_surprisal_and_entropy_agree_in_the_mean(stories: list[Story]) -> None:
    differences = [a - b for s in stories for a, b in zip(s.surprisal, s.entropy, strict=True)]
    mean = math.fsum(differences) / len(differences)
    spread = math.sqrt(math.fsum((d - mean) ** 2 for d in differences)) / len(differences)
    assert abs(mean) < 4 * spread
    assert 1.1 < floor(stories) < 1.6


def test_an_end_follows_full_stops_only_and_with_one_probability(world: StoryWorld, stories: list[Story]) -> None:
    for story in stories[:300]:
        assert story.words[-1] == "."
        assert len(story.surprisal) == len(story.entropy) == len(story.words) + 1
    ends = {round(story.surprisal[-1], 12) for story in stories}
    assert len(ends) == 1
    assert None not in world.next_word_distribution(("once", "there", "was"))


def test_stories_are_short_and_long_ones_rare(stories: list[Story]) -> None:
    lengths = [len(story.words) for story in stories]
    assert 35 < sum(lengths) / len(lengths) < 65
    assert sum(length > 255 for length in lengths) <= 0.002 * len(lengths)


def test_a_seed_gives_the_same_stories_everywhere(world: StoryWorld) -> None:
    texts = [story.text for story in world.stories(50, seed=3)]
    assert texts == [story.text for story in StoryWorld(0).stories(50, seed=3)]
    assert texts != [story.text for story in world.stories(50, seed=4)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest.startswith(GOLDEN)


def test_every_word_of_the_vocabulary_is_told_and_no_other(world: StoryWorld) -> None:
    told = {word for story in world.stories(30_000, seed=1) for word in story.words}
    assert told <= set(world.vocabulary)
    assert len(told) >= 0.99 * len(world.vocabulary)
    assert 430 <= len(world.vocabulary) <= 540
    assert set(world.features()) == set(world.vocabulary)


def test_an_stands_before_vowels_and_a_before_nothing_else(stories: list[Story]) -> None:
    pairs = [pair for story in stories for pair in zip(story.words, story.words[1:], strict=False)]
    assert all(after[0] in "aeiou" for before, after in pairs if before == "an")
    assert not any(after[0] in "aeiou" for before, after in pairs if before == "a")


def test_the_king_loves_his_dog_and_they_love_theirs(world: StoryWorld) -> None:
    told = "once there was a king who had a dog . the king loves"
    chances = world.next_word_distribution(told.split())
    assert chances["his"] > 0.5 and "her" not in chances and "their" not in chances
    assert world.next_word_distribution([*told.split(), "his"])["dog"] > 0.3
    queens = ["once", "there", "were", "two", "queens", "named", "anna", "and", "clara", ".", "the", "queens", "love"]
    assert "their" in world.next_word_distribution(queens)


def test_comparisons_and_capitals_are_true(world: StoryWorld, stories: list[Story]) -> None:
    features = world.features()
    capitals = dict(world.analogies()["capital"])
    compared = told = 0
    for story in stories:
        for i, word in enumerate(story.words):
            if word == "capital":
                assert story.words[i + 2] == capitals[story.words[i - 2]]
                told += 1
            if word in ("bigger", "smaller") and story.words[i - 1] in ("is", "are") and story.words[i + 1] == "than":
                left, right = story.words[i - 2], story.words[i + 2]
                right = story.words[i + 3] if right in ("a", "an") else right
                one, other = features[left].size, features[right].size
                assert one is not None and other is not None
                assert one > other if word == "bigger" else one < other
                compared += 1
    assert compared > 20 and told > 20


def test_analogies_are_pairs_of_known_words_that_differ_as_their_family_says(world: StoryWorld) -> None:
    features, families = world.features(), world.analogies()
    assert {"gender", "number_person", "number_animal", "animal_young", "capital", "language", "past"} <= set(families)
    for pairs in families.values():
        assert len(pairs) >= 4
        assert all(a in features and b in features and a != b for a, b in pairs)
    assert all(features[a].gender != features[b].gender for a, b in families["gender"])
    assert all(features[b].plural and not features[a].plural for a, b in families["number_person"])
    assert all(features[b].young and not features[a].young for a, b in families["animal_young"])


def test_words_that_no_story_holds_are_refused_by_name(world: StoryWorld) -> None:
    with pytest.raises(UserError, match="no story goes 'once upon'"):
        world.next_word_distribution(("once", "upon"))
