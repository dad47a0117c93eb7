"""The merges of a BPE vocabulary that was published without them, as sentencepiece and tiktoken do."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

_STEPS = 1 << 27  # of joining: a quarter of a minute at worst


def joined(text: str, scores: Mapping[str, float], fewest: int = 1) -> list[str]:
    """The parts of a text after its neighbours were joined, as long as they make a piece and are more than `fewest`.

    The best-scored piece is made first, the leftmost among equals.
    """
    parts = list(text)
    while len(parts) > fewest:
        made = [scores.get(left + right, -math.inf) for left, right in pairwise(parts)]
        best = max(made)
        if best == -math.inf:
            break
        at = made.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def check_lengths(pieces: Iterable[str]) -> None:
    """ValueError for pieces that would take too long to join; the time grows with the square of a length."""
    if sum(len(piece) ** 2 for piece in pieces) > _STEPS:
        raise ValueError("its pieces are longer, or more, than those of any model")


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges that a BPE which knows pieces by their merges needs to join as `joined` does, best first.

    Where a piece comes about, nothing outside of it took part: it was joined as it is when it stands alone, and its
    last merge is always the same. So each piece has one merge, or none if joining never arrives at it. ValueError
    for pieces of equal score that get in each other's way, but for runs of one character (the spaces of Llama): the
    leftmost run grows first, and so it does where the longest comes first.
    """
    check_lengths(scores)
    halves = {piece: joined(piece, scores, 2) for piece in scores}
    merges = {piece: (parts[0], parts[1]) for piece, parts in halves.items() if len(parts) == 2}
    _check_ties(merges, scores)
    return [merges[piece] for piece in sorted(merges, key=lambda piece: (-scores[piece], -len(piece)))]


def _check_ties(merges: Mapping[str, tuple[str, str]], scores: Mapping[str, float]) -> None:
    """ValueError for pieces of one score that might share a neighbour: the leftmost would go first, whichever it is."""
    alike = defaultdict[float, list[str]](list)
    levels = defaultdict[str, set[float]](set)
    for piece in merges:
        alike[scores[piece]].append(piece)
        levels[_character(piece)].add(scores[piece])
    tied = {piece for group in alike.values() if len(group) > 1 for piece in group}
    beginning = defaultdict[tuple[float, str], list[str]](list)
    for piece in tied:
        beginning[scores[piece], merges[piece][0]].append(piece)
    for piece, parts in merges.items():
        rivals = [part for part in parts if part in tied and scores[part] <= scores[piece]]
        if piece in tied:
            rivals += [other for other in beginning[scores[piece], parts[1]] if other != piece]
        if (own := _character(piece)) and len(levels[own]) == 1:
            rivals = [other for other in rivals if _character(other) != own]
        if rivals:
            raise ValueError(
                f"{piece!r} and {rivals[0]!r} get in each other's way, and their scores don't say which goes first"
            )


def _character(piece: str) -> str:
    """The character of a run of one, empty for other pieces."""
    return piece[0] if piece.count(piece[0]) == len(piece) else ""
