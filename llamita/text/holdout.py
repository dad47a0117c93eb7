"""Which text is held out for validation: whole documents, or the tail of each."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from llamita.errors import UserError

LOOK_AHEAD_BYTES = 64 * 2**20  # text held back until the way of splitting is decided
CUT_REACH = 10_000  # characters searched for a line end before a text is cut anywhere

Part = Literal["train", "validation"]
SplitKind = Literal["documents", "tail", "none"]


@dataclass(frozen=True, slots=True)
class Split:
    """How text is held out: "documents" (whole ones are), "tail" (the end of each is) or "none" (nothing is).

    UserError for a fraction outside [0, 1).
    """

    kind: SplitKind
    fraction: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise UserError(f"validation fraction {self.fraction}: give a number from 0 to less than 1")

    def pieces(self, number: int, text: str) -> list[tuple[Part, str]]:
        """The parts of a document and where they belong; it is the number-th of all documents, from 0."""
        if self.kind == "documents" and self.picks(number):
            return [("validation", text)]
        if self.kind != "tail":
            return [("train", text)]
        cut = _tail_start(text, self.fraction)
        tail: list[tuple[Part, str]] = [("validation", text[cut:])] if cut < len(text) else []
        return [("train", text[:cut]), *tail]

    def picks(self, number: int) -> bool:
        """Whether a whole document would be held out: by a seeded hash of its number."""
        digest = hashlib.blake2b(f"{self.seed} {number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self.fraction * 2**64


def choose_split(texts: Iterable[str], fraction: float, seed: int) -> tuple[Split, Iterator[str]]:
    """How to hold out about `fraction` of the text, and the texts again, all of them.

    Whole documents where that doesn't miss the fraction badly on the text looked at ahead (all of a small
    corpus, the beginning of a large one), else tails.
    """
    whole = Split("documents", fraction, seed)
    texts = iter(texts)
    if not fraction:
        return Split("none", fraction, seed), texts
    ahead: deque[str] = deque()
    size = held_out = 0
    for text in texts:
        held_out += byte_length(text) * whole.picks(len(ahead))
        size += byte_length(text)
        ahead.append(text)
        if size >= LOOK_AHEAD_BYTES and len(ahead) > 1:
            break
    rest = chain((ahead.popleft() for _ in range(len(ahead))), texts)
    if fraction / 4 * size <= held_out <= min(4 * fraction, (1 + fraction) / 2) * size:
        return whole, rest
    return Split("tail", fraction, seed), rest


def byte_length(text: str) -> int:
    """Length in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _tail_start(text: str, fraction: float) -> int:
    """After a line end shortly before the goal, else before white space, else at the goal."""
    if len(text) < 2:
        return len(text)
    goal = min(max(round(len(text) * (1 - fraction)), 1), len(text) - 1)
    low = max(goal - min(CUT_REACH, round(len(text) * fraction / 2)), 0)
    if newline := text.rfind("\n", low, goal) + 1:
        return newline
    return next((place for place in range(goal, low, -1) if text[place].isspace()), goal)
