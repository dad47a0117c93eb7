"""What is asked is always the same, asked once, right by the grammar, and not to be guessed."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from functools import cache

import pytest

from llamita.tasks.items import Item, arranged
from llamita.tasks.scoring import TASKS
from llamita.text.storyworld import StoryWorld
from llamita.text.storyworld_meaning import KNOWN

# A change of these is a change of the task: raise its version in multiple_choice.yml.
FINGERPRINTS = {
    "storyworld_agreement": "ec18f78f23fb8a0f7d152caf331031d162228304b38d146d5833bacbe1a48604",
    "analogies": "76be1168fd1ba13a95430d8000d2a33078821a01df3702d58c8328db6b1a4349",
    "analogies_english": "997c364364a59b4f9d6ef26e8e4f4390d4c7b97e670ad1fb2262fd05b7b10bed",
    "cloze": "e2e16416008ef6c4baaea763672ae7606bc7c41860853699a35830ae41d6b8b0",
}
WORLD = StoryWorld(seed=0)


@cache
def asked(task: str) -> list[Item]:
    return TASKS[task]()


def follows(context: str, text: str) -> bool:
    """Whether some story begins with the context and goes on with the text."""
    words = context.split()
    for word in text.split():
        if word not in WORLD.next_word_distribution(words):
            return False
        words.append(word)
    return True


def differing(item: Item) -> tuple[str, str]:
    """The words in which the two sides of a minimal pair differ."""
    sides = [choice.split() for choice in item.choices]
    found = [pair for pair in zip(*sides, strict=True) if pair[0] != pair[1]]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_the_same_everywhere(task: str) -> None:
    rows = json.dumps([asdict(item) for item in asked(task)], sort_keys=True)
    assert hashlib.sha256(rows.encode()).hexdigest() == FINGERPRINTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_asked_twice_and_no_place_is_the_right_one_more_often(task: str) -> None:
    items = asked(task)
    assert 100 <= len(items) <= 300
    assert len({(item.context, frozenset(item.choices)) for item in items}) == len(items)
    assert all(len(set(item.choices)) == len(item.choices) for item in items)
    (choices,) = {len(item.choices) for item in items}
    assert choices == (2 if task == "storyworld_agreement" else 4)
    assert Counter(item.gold for item in items) == {place: len(items) / choices for place in range(choices)}
    sizes = set(Counter(item.family for item in items).values())
    assert len(sizes) == 1


@pytest.mark.parametrize("task", ["storyworld_agreement", "analogies", "cloze"])
def test_only_the_right_answer_follows_by_the_grammar(task: str) -> None:
    for item in asked(task):
        assert [follows(item.context, choice) for choice in item.choices] == [
            number == item.gold for number in range(len(item.choices))
        ]


def test_minimal_pairs_differ_in_a_word_that_stories_have() -> None:
    for item in asked("storyworld_agreement"):
        assert all(word in WORLD.vocabulary for word in differing(item))
        assert item.context.split()[0] == "once"


def test_gaps_are_filled_by_words_of_a_kind() -> None:
    for item in asked("cloze"):
        kinds = {(KNOWN[word].kind, KNOWN[word].plural) for word in item.choices}
        assert len(kinds) == 1
        assert next(iter(kinds))[0] == item.family


@pytest.mark.parametrize("task", ["analogies", "analogies_english"])
def test_copying_the_other_answer_is_always_wrong(task: str) -> None:
    for item in asked(task):
        copied = [n for n, choice in enumerate(item.choices) if choice in item.context.replace(" .", "").split()]
        assert item.gold not in copied
        assert copied


def test_the_right_answer_stands_at_each_place_in_turn() -> None:
    items = arranged("family", [("context", "right", ["one", "two"])] * 4)
    assert [item.choices.index("right") for item in items] == [item.gold for item in items] == [0, 1, 2, 0]
    assert items[1].choices == ("one", "right", "two")
