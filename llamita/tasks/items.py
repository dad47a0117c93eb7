"""A question with several answers."""

from collections.abc import Sequence
from dataclasses import dataclass

CHOICES = 4  # of a question that isn't a minimal pair


@dataclass(frozen=True, slots=True)
class Item:
    """A context, the texts that could follow it after a space, the number of the right one, and what it asks for."""

    context: str
    choices: tuple[str, ...]
    gold: int
    family: str


def arranged(family: str, questions: Sequence[tuple[str, str, Sequence[str]]]) -> list[Item]:
    """Items of (context, right, wrong ones); the right one stands at each place equally often."""
    items = []
    for number, (context, right, wrong) in enumerate(questions):
        gold = number % (len(wrong) + 1)
        items.append(Item(context, (*wrong[:gold], right, *wrong[gold:]), gold, family))
    return items
